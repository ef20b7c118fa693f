"""Events in any entries and order, once or often, as packs, as objects, through Celery: counters equal the oracle."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.database import run
from usage_worker.publisher import UsagePublisher
from usage_worker.service.app import make_app
from usage_worker.store.intake import Intake
from usage_worker.testing.oracle import TOKEN_PARTS, Oracle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery import Celery

    from tests.integration.conftest import IngestHarness

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
DAILY = (
    *("usage_count", "message_count", "success_count", "error_count", "total_tokens_used", "total_cost_usd"),
    *("response_time_total_ms", "response_time_samples", *TOKEN_PARTS),
)
LEDGER = {
    "messages": 1, "input_tokens": 0, "output_tokens": 0, "tokens": None, "cached_input_tokens": None,
    "cache_write_tokens": None, "reasoning_tokens": None, "cost_usd": None, "response_time_ms": None, "success": True,
    "conversation_id": None, "model": None, "provider": None, "rating": None, "type": "usage", "user_id": None,
    "agent_id": None,
}  # fmt: skip
"""Columns of the ledger with their defaults."""
CONVERSATIONS = [uuid4() for _ in range(3)]

tokens = st.integers(0, 10**12) | st.sampled_from([0, 10**12])
# Their sum must not exceed what one event may have.
halves = st.integers(0, 5 * 10**11) | st.sampled_from([0, 5 * 10**11])
costs = (st.integers(0, 10**16) | st.sampled_from([0, 1, 10**10 - 1, 10**16])).map(lambda it: Decimal(it).scaleb(-10))
amounts = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.integers(0, 1_000_000),
        "input_tokens": halves,
        "output_tokens": halves,
        "tokens": tokens,
        "cached_input_tokens": tokens,
        "cache_write_tokens": tokens,
        "reasoning_tokens": tokens,
        "cost_usd": costs,
        "response_time_ms": st.integers(0, 86_400_000),
        "success": st.booleans(),
        "conversation_id": st.sampled_from(CONVERSATIONS),
        "provider": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    },
)


class Drawn(NamedTuple):
    """An event without its identity. One without a time is a use: two ratings of one time would be in no order."""

    amounts: dict[str, Any]
    user: int
    agent: int
    rating: Decimal | None
    identity: str
    has_time: bool
    is_before_midnight: bool


class Entry(NamedTuple):
    """Events that are sent together, by their numbers; perhaps counted at once, and then perhaps delivered again."""

    way: str
    numbers: list[int]
    is_sent_again: bool
    is_flushed: bool
    shard: int


drawn_events = st.builds(
    Drawn,
    amounts=amounts,
    user=st.integers(0, 2),
    agent=st.integers(0, 1),
    rating=st.none() | st.none() | st.integers(0, 500).map(lambda hundredths: Decimal(hundredths) / 100),
    identity=st.sampled_from(["UUID", "key", "none"]),
    has_time=st.booleans(),
    is_before_midnight=st.booleans(),
)
drawn_entries = st.builds(
    Entry,
    way=st.sampled_from(["exact", "any", "objects", "Celery"]),
    numbers=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    is_sent_again=st.booleans(),
    is_flushed=st.booleans(),
    shard=st.integers(0, 1),
)


class Senders:
    """The ways by which entries come in."""

    def __init__(self, harness: IngestHarness, publisher: UsagePublisher, app: Celery) -> None:
        self._harness = harness
        self._publisher = publisher
        self._app = app

    def send(self, entry: Entry, events: Sequence[dict[str, Any]]) -> list[tuple[str, Any]]:
        """Send events; return the entries that they became, each with its stream, so that it can be added again."""
        before = {entry_id for _, entry_id, _ in self._waiting()}
        self._send(entry, events)
        return [(stream, fields) for stream, entry_id, fields in self._waiting() if entry_id not in before]

    def _send(self, entry: Entry, events: Sequence[dict[str, Any]]) -> None:
        objects = [as_json(event) for event in events]
        match entry.way:
            case "objects":
                self._harness.xadd(json.dumps(objects), shard=entry.shard, id=str(uuid4()))
            case "Celery":
                self._app.tasks["usage.track_many"].apply(kwargs={"events": objects}, throw=True)
            case way:
                for event in events if way == "exact" else objects:
                    assert self._publisher.add(dict(event)) is not None
                assert self._publisher.flush()

    def _waiting(self) -> Iterator[tuple[str, bytes, Any]]:
        for shard in range(2):
            stream = f"usage:events:{{{shard}}}"
            found: Any = self._harness.redis.xrange(stream)
            yield from ((stream, entry_id, fields) for entry_id, fields in found)


@pytest.fixture
def senders(harness: IngestHarness) -> Iterator[Senders]:
    settings = harness.worker.settings
    with (
        UsagePublisher(harness.resources.settings.redis_url) as publisher,
        make_app(settings) as app,
        closing(app.usage_resources),
    ):
        yield Senders(harness, publisher, app)


class Expected:
    """What the ledger and the roll-up must hold; their times decide where events have none of their own."""

    def __init__(self, harness: IngestHarness) -> None:
        self._harness = harness
        self._days: dict[date, Oracle] = {}
        self._ids = count()
        self.numbers = count()
        """Of the events of all examples, so that no two have one time."""

    def check_ledger(self, event: dict[str, Any], times: int, began: datetime) -> None:
        """Check the rows of an event, found by its model, and add them to the oracle."""
        names = ", ".join(LEDGER)
        find = f"SELECT occurred_at, {names} FROM usage_events WHERE model = %s"
        rows = run(self._harness.resources.settings.database_url, find, event["model"])
        assert len(rows) == times
        row = LEDGER | event
        if row["tokens"] is None:
            row["tokens"] = row["input_tokens"] + row["output_tokens"]
        for time, *values in rows:
            assert values == [row[name] for name in LEDGER]
            assert time == event["occurred_at"] if "occurred_at" in event else began <= time <= datetime.now(UTC)
            # As the application gave it, so that the oracle fills in the defaults itself.
            counted = event | {"event_id": next(self._ids), "occurred_at": time}
            self._harness.oracle.add(counted)
            self._days.setdefault(time.astimezone(UTC).date(), Oracle()).add(counted)

    def check_days(self) -> None:
        url = self._harness.resources.settings.database_url
        rows = run(url, f"SELECT user_id, agent_id, day, {', '.join(DAILY)} FROM usage_daily")
        found = {(UUID(str(user)), UUID(str(agent)), day): values for user, agent, day, *values in rows if any(values)}
        expected = {
            (*pair, day): [getattr(row, name) for name in DAILY]
            for day, oracle in self._days.items()
            for pair, row in oracle.rows.items()
            if row.usage_count
        }
        assert found == expected


@pytest.fixture
def expected(harness: IngestHarness) -> Expected:
    return Expected(harness)


@settings(
    max_examples=12,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(drawn_events, min_size=1, max_size=8), st.lists(drawn_entries, min_size=1, max_size=8))
def test_counted_as_by_oracle(
    harness: IngestHarness, senders: Senders, expected: Expected, drawn: list[Drawn], entries: list[Entry]
) -> None:
    before, began = harness.resources.store.intake_totals(), datetime.now(UTC) - timedelta(milliseconds=1)
    events = [completed(harness, one, next(expected.numbers)) for one in drawn]
    sent: list[int] = []
    for entry in entries:
        numbers = [number % len(events) for number in entry.numbers]
        sent += numbers
        became = senders.send(entry, [events[number] for number in numbers])
        if entry.is_flushed:
            harness.flush()
        if entry.is_sent_again:
            for stream, fields in became:
                harness.redis.xadd(stream, fields)
    harness.flush()
    counts = [sent.count(number) for number in range(len(events))]
    counts = [min(it, 1) if "event_id" in event else it for it, event in zip(counts, events, strict=True)]
    intake = Intake(*(now - then for now, then in zip(harness.resources.store.intake_totals(), before, strict=True)))
    assert intake == Intake(len(sent), sum(counts), len(sent) - sum(counts), 0)
    for event, times in zip(events, counts, strict=True):
        expected.check_ledger(event, times, began)
    expected.check_days()
    harness.check()


def completed(harness: IngestHarness, drawn: Drawn, number: int) -> dict[str, Any]:
    """Return the event as an application gives it, with a model that no other event has."""
    event: dict[str, Any] = {
        "user_id": harness.users[drawn.user],
        "agent_id": harness.agents[drawn.agent],
        "model": uuid4().hex,
        **drawn.amounts,
    }
    if drawn.rating is not None:
        event |= {"type": "rating", "rating": drawn.rating}
    if drawn.identity != "none":
        event["event_id"] = uuid4() if drawn.identity == "UUID" else f"order {uuid4()}"
    if drawn.has_time or drawn.rating is not None:
        distance = -MICROSECOND * (number + 1) if drawn.is_before_midnight else MICROSECOND * number
        event["occurred_at"] = MIDNIGHT + distance
    return event


def as_json(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event as other languages write it."""
    return {name: _json(value) for name, value in event.items()}


def _json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value) if isinstance(value, UUID | datetime) else value
