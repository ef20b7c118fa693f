"""Building a batch: which records are counted, and which are duplicates."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from usage_worker.events.event import Record
from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.entries import DecodedEntry

DAY = "2026-03-01"
PAIR = str(UUID(int=1)), str(UUID(int=2))
FIRST, SECOND = UUID(int=100), UUID(int=200)


def record(number: int, cost: str | None = None) -> Record:
    when = f"{DAY}T12:00:00.000000Z"
    event_id = str(UUID(int=number))
    return Record(event_id, when, "usage", *PAIR, 1, 0, 0, 0, cost, None, True, None, None, None)


def entry(key: UUID, *records: Record, anonymous: bool = False) -> DecodedEntry:
    ids = {record.event_id for record in records} if anonymous else set()
    return DecodedEntry("stream", "1-0", key, list(records), list(range(len(records))), anonymous=ids)


def test_records_are_sorted_by_event_id_and_folded() -> None:
    batch = batch_of([entry(FIRST, record(3), record(1)), entry(SECOND, record(2))])
    assert batch.records == [record(1), record(2), record(3)]
    assert batch.duplicate == 0
    assert batch.days is not None
    assert batch.days[DAY][PAIR].usage_count == 3


def test_event_in_two_entries_is_one_use_and_one_duplicate() -> None:
    batch = batch_of([entry(FIRST, record(1)), entry(SECOND, record(1))])
    assert (batch.records, batch.duplicate) == ([record(1)], 1)


def test_known_events_are_duplicates_of_new_entries() -> None:
    batch = batch_of([entry(FIRST, record(1), record(2))], {FIRST}, {record(1)[:2]})
    assert (batch.records, batch.duplicate) == ([record(2)], 1)


def test_known_events_of_redelivered_entries_are_not_duplicates_again() -> None:
    batch = batch_of([entry(FIRST, record(1), record(2))], set(), {record(1)[:2]})
    assert (batch.records, batch.duplicate) == ([record(2)], 0)


def test_events_without_id_are_dropped_from_redelivered_entries() -> None:
    batch = batch_of([entry(FIRST, record(1), anonymous=True)], set())
    assert (batch.records, batch.duplicate) == ([], 0)


def test_pack_twice_in_batch_counts_once_without_duplicates() -> None:
    batch = batch_of([entry(FIRST, record(1)), entry(FIRST, record(1))])
    assert (batch.records, batch.duplicate) == ([record(1)], 0)


def test_batch_does_not_change_set_of_new_entries() -> None:
    first_seen = {FIRST}
    batch_of([entry(FIRST, record(1))], first_seen)
    assert first_seen == {FIRST}


def test_batch_that_cannot_be_folded_has_records_and_no_totals() -> None:
    batch = batch_of([entry(FIRST, record(1, cost="not a number"), record(2, cost="1.5"))])
    assert len(batch.records) == 2
    assert batch.days is None


def test_costs_add_up_exactly() -> None:
    batch = batch_of([entry(FIRST, *(record(number, "0.1") for number in range(3)))])
    assert batch.days is not None
    assert batch.days[DAY][PAIR].cost_usd == Decimal("0.3")
