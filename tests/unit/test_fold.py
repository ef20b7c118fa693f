"""The fold gives the same totals for any order, duplication and division into batches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from usage_worker.events.event import Event, Record, record_of, time_text, values_of
from usage_worker.events.values import decimal_text
from usage_worker.ingest.fold import Folded, Totals, fold

START = datetime(2026, 3, 1, 23, 59, 58, tzinfo=UTC)
ids = st.integers(0, 2).map(lambda number: str(UUID(int=number)))
cents = st.integers(0, 10**16).map(lambda number: Decimal(number).scaleb(-10))


@st.composite
def records(draw: st.DrawFn) -> Record:
    rating = draw(st.none() | st.none() | st.integers(0, 500).map(lambda number: Decimal(number) / 100))
    return Record(
        event_id=str(draw(st.uuids())),
        occurred_at=time_text(START + timedelta(seconds=draw(st.integers(0, 4)))),
        type="usage" if rating is None else "rating",
        user_id=draw(ids),
        agent_id=draw(ids),
        messages=draw(st.integers(0, 9)),
        input_tokens=draw(st.integers(0, 2**40)),
        output_tokens=draw(st.integers(0, 2**40)),
        tokens=draw(st.integers(0, 2**41)),
        cost_usd=decimal_text(draw(st.none() | cents)),
        response_time_ms=draw(st.none() | st.integers(0, 86_400_000)),
        success=draw(st.booleans()),
        conversation_id=draw(st.none() | ids),
        model=None,
        rating=decimal_text(rating),
    )


def plain(folded: Folded) -> dict[Any, dict[str, Any]]:
    return {
        (day, *pair): {name: getattr(totals, name) for name in Totals.__slots__}
        for day, pairs in folded.items()
        for pair, totals in pairs.items()
    }


def merged(parts: list[Folded]) -> dict[Any, dict[str, Any]]:
    """Add up the parts in order by the rules of the query `apply_totals`, in Python."""
    sums: dict[Any, dict[str, Any]] = {}
    newest = {"last_used_at": max, "first_used_at": min, "last_conversation": max, "last_rating": max}
    for part in parts:
        for key, totals in plain(part).items():
            row = sums.setdefault(key, dict.fromkeys(totals))
            for name, value in totals.items():
                before = row[name]
                if before is None or value is None:
                    row[name] = value if before is None else before
                elif name in newest:
                    row[name] = newest[name](before, value)
                else:
                    row[name] = before | value if name == "conversations" else before + value
    return sums


@given(st.lists(records(), max_size=30, unique_by=lambda record: record.event_id), st.randoms(), st.integers(1, 7))
def test_order_and_batches_do_not_matter(events: list[Record], random: Any, size: int) -> None:
    shuffled = events[:]
    random.shuffle(shuffled)
    batches = [fold(shuffled[start : start + size]) for start in range(0, len(shuffled), size)]
    assert merged(batches) == plain(fold(events))


@given(st.lists(records(), max_size=30, unique_by=lambda record: record.event_id))
def test_sums_equal_plain_python(events: list[Record]) -> None:
    uses = [record for record in events if record.rating is None]
    totals = [totals for pairs in fold(events).values() for totals in pairs.values()]
    assert sum(total.usage_count for total in totals) == len(uses)
    assert sum(total.tokens for total in totals) == sum(record.tokens for record in uses)
    assert sum((total.cost_usd for total in totals), Decimal(0)) == sum(
        (Decimal(record.cost_usd) for record in uses if record.cost_usd is not None), Decimal(0)
    )


@given(st.lists(records(), max_size=30))
def test_days_ascend(events: list[Record]) -> None:
    """Concurrent batches lock rows in the same order, so that they wait instead of deadlocking."""
    folded = fold(events)
    assert list(folded) == sorted(folded)


def test_day_is_utc_day() -> None:
    east = datetime.fromisoformat("2026-03-02T01:30:00+02:00")
    event = Event(user_id=UUID(int=1), agent_id=UUID(int=2), occurred_at=east)
    record = record_of(values_of(event), UUID(int=3), 0, east)
    assert list(fold([record])) == ["2026-03-01"]
