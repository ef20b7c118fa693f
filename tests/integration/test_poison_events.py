"""Malformed events and entries: each is quarantined alone, and its neighbours are counted."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.commands import figures
from tests.integration.database import run
from usage_worker.events.columns import NAMES
from usage_worker.printable import REASON_LENGTH
from usage_worker.queue.entry import RawEntry, newer_version
from usage_worker.store.intake import Intake
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness

LATEST, EARLIEST = "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+01:00"
HALF = "\ud83d"


def pair(harness: IngestHarness, **fields: Any) -> dict[str, Any]:
    return {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0]), **fields}


def full(harness: IngestHarness, **fields: Any) -> dict[str, Any]:
    """Return an event with all of its fields, some of them replaced."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"
    values = {
        "event_id": str(uuid4()), "occurred_at": now, "type": "usage", **pair(harness), "messages": 1,
        "input_tokens": 0, "output_tokens": 0, "tokens": 0, "cost_usd": None, "response_time_ms": None, "success": True,
        "conversation_id": None, "model": None, "rating": None,
    }  # fmt: skip
    return values | fields


POISON: list[tuple[dict[str, Any], str]] = [
    ({"occurred_at": LATEST}, "occurred_at: more than 5 minutes in the future"),
    ({"occurred_at": EARLIEST}, "occurred_at: older than the acceptance window"),
    ({"a\x00b": 1}, r"a\x00b: Extra inputs"),
    ({"a\x1b[2J\nb": 1}, r"a\x1b[2J\nb: Extra inputs"),
    ({"user_id": "a\x00b"}, "user_id: "),
    ({"agent_id": HALF}, "agent_id: Input should be valid Unicode"),
    ({"conversation_id": "\x00"}, "conversation_id: "),
    ({"event_id": "a\x00b"}, "event_id: "),
    ({"event_id": HALF}, "event_id: Input should be valid Unicode"),
    ({"model": f"gpt-{HALF}"}, "model: Input should be valid Unicode"),
    ({HALF: 1}, "event: Input should be valid Unicode"),
    ({"metadata": {"a\x00": [{"b": "\x00"}]}}, "metadata: Extra inputs"),
    ({"x" * 100_000: 1}, "xxx"),
]


@pytest.mark.parametrize("form", [pair, full])
def test_poison_event_is_quarantined_alone(harness: IngestHarness, form: Callable[..., Any]) -> None:
    for fields, _ in POISON:
        known = fields.keys() <= {"occurred_at", "user_id", "agent_id", "conversation_id", "event_id", "model"}
        bad = form(harness, **fields) if known else pair(harness) | fields
        harness.xadd(json.dumps([form(harness), bad, form(harness)]))
    count = len(POISON)
    assert harness.flush() == Intake(3 * count, 2 * count, 0, count)
    for (fields, reason), dead_letter in zip(POISON, harness.dead_letters(), strict=True):
        assert reason in dead_letter["reason"]
        assert dead_letter["reason"].isprintable()
        assert len(dead_letter["reason"]) <= REASON_LENGTH
        assert fields.items() <= json.loads(dead_letter["payload"]).items()
    assert harness.resources.store.rows(testing_query("unbalanced")) == []


@pytest.mark.parametrize(
    "fields", [{b"v": b"1", b"ev\x00ents": b"[]"}, {b"v": b"1", b"events": b"\x1f\x8b\x00"}, {b"v\x00": b"\xff"}]
)
def test_entry_that_is_not_text_is_quarantined_alone(harness: IngestHarness, fields: dict[Any, Any]) -> None:
    harness.redis.xadd("usage:events:{0}", fields)
    harness.xadd(json.dumps([pair(harness)]))
    assert harness.flush() == Intake(2, 1, 0, 1)
    (dead_letter,) = harness.dead_letters()
    assert dead_letter["payload"]


def test_entry_ids_outside_calendar(harness: IngestHarness, cli: Cli) -> None:
    """The time of an entry matters only to events without a time of their own."""
    ids = ((0, "1-1"), (0, "253402300799000-0"), (1, "1795644342179221-0"), (1, f"{2**64 - 1}-{2**64 - 1}"))
    for shard, entry_id in ids:
        events = [pair(harness), pair(harness, occurred_at=datetime.now(UTC).isoformat())]
        entry: Any = {"v": "1", "n": "2", "events": json.dumps(events)}
        harness.redis.xadd(f"usage:events:{{{shard}}}", entry, id=entry_id)
    assert cli.run("status", "--json").stdout.startswith("{")
    assert cli.run("metrics").stdout
    assert cli.drained() == figures(applied=len(ids), quarantined=len(ids))
    assert cli.run("status").stdout
    assert cli.run("run", "partitions").returncode == 0
    dead_letters = harness.dead_letters()
    assert all(dead_letter["reason"].startswith("occurred_at: ") for dead_letter in dead_letters)
    assert all("by the entry's id" in dead_letter["reason"] for dead_letter in dead_letters)
    assert run(harness.resources.settings.database_url, "SELECT count(*)::int FROM usage_events") == [(len(ids),)]
    done = cli.run("dead-letters", "replay", "--all")
    assert (done.returncode, done.stdout) == (1, f"0 events sent, {len(ids)} bad dead letters\n")


def test_numbers_too_long_only_in_sum(harness: IngestHarness) -> None:
    """Python refuses to format an integer of more than 4,300 digits, after decoding and before PostgreSQL sees it."""
    longest = int("9" * sys.get_int_max_str_digits()) if sys.get_int_max_str_digits() else 0
    assert longest
    harness.xadd(json.dumps([full(harness, tokens=longest), full(harness, tokens=1), full(harness, tokens=longest)]))
    harness.xadd(json.dumps([pair(harness)]))
    assert harness.flush() == Intake(4, 2, 0, 2)
    assert {dead_letter["position"] for dead_letter in harness.dead_letters()} == {0, 2}


def test_nonexistent_day_in_pessimistic_mode(harness: IngestHarness) -> None:
    once = json.dumps([full(harness)])
    harness.xadd(once)
    harness.xadd(once)
    assert harness.flush().duplicate == 1
    harness.xadd(
        json.dumps([full(harness), full(harness, occurred_at=f"{datetime.now(UTC):%Y}-02-30T00:00:00.000000Z")])
    )
    assert harness.flush() == Intake(2, 1, 0, 1)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5)
names = st.sampled_from(["user_id", "agent_id", "occurred_at", "event_id", "model", "tokens", "type"]) | st.text(
    st.characters(), max_size=3
)
jsonish = st.recursive(
    leaves | st.sampled_from([LATEST, EARLIEST, "usage", str(uuid4())]),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(names, inner, max_size=6),
    max_leaves=40,
)
bodies = st.lists(jsonish, max_size=4).map(json.dumps).map(str.encode) | st.binary(max_size=40)
entries = st.dictionaries(st.sampled_from([b"v", b"n", b"id", b"x\x00"]), st.binary(min_size=1, max_size=8), max_size=4)
columns = st.dictionaries(st.sampled_from(NAMES), st.lists(jsonish, min_size=2, max_size=2) | jsonish, max_size=6)
bodies |= columns.map(json.dumps).map(str.encode)
entry_fields = st.tuples(entries, st.none() | bodies, st.sampled_from([b"", b"1", b"2"])).map(
    lambda it: it[0] | ({} if it[1] is None else {b"events": it[1]}) | ({b"v": it[2]} if it[2] else {})
)
# Those of a newer version wait.
poison_fields = entry_fields.filter(lambda fields: fields and not newer_version(RawEntry("1-0", fields)))


@settings(
    max_examples=25,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(poison_fields, min_size=1, max_size=20))
def test_no_entry_stops_shard(harness: IngestHarness, poison: list[dict[Any, Any]]) -> None:
    before = harness.resources.store.intake_totals()
    for fields in poison:
        harness.redis.xadd("usage:events:{0}", fields)
    good = pair(harness, event_id=str(uuid4()), occurred_at=datetime.now(UTC).isoformat())
    harness.xadd(json.dumps([good]))
    intake = harness.flush()
    assert intake.applied == 1
    assert intake.accepted <= harness.resources.store.intake_totals().accepted - before.accepted
    assert harness.resources.stream.backlog(0)[:2] == (0, 0)
