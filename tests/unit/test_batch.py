"""Building a batch: which events are counted, and which are duplicates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from usage_worker.events.event import Window, microseconds
from usage_worker.ingest.batch import batch_of, events_of
from usage_worker.ingest.entries import DecodedEntry
from usage_worker.ingest.event_array import EVENT, TextTable
from usage_worker.queue.entry import RawEntry

if TYPE_CHECKING:
    from usage_worker.ingest.event_array import Chosen, Events

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIME, WINDOW = microseconds(NOW), Window.around(NOW, timedelta(days=35))
FIRST, SECOND = UUID(int=100), UUID(int=200)
TEXTS = TextTable()


def entry(key: UUID, *numbers: int, anonymous: bool = False) -> DecodedEntry:
    """Return an entry with events of these ids."""
    events = np.zeros(len(numbers), EVENT)
    events["event_id"] = np.array([(0, number) for number in numbers], np.uint64).reshape(-1, 2)
    events["occurred_at"], events["is_anonymous"] = TIME, anonymous
    events["position"] = np.arange(len(numbers))
    return DecodedEntry("stream", key, RawEntry("1-0", {}), key, TEXTS, WINDOW, events)


def ids(events: Chosen | Events) -> list[int]:
    found: list[int] = events["event_id"][:, 1].tolist()
    return found


def test_events_are_sorted_by_id_and_folded() -> None:
    batch = batch_of([entry(FIRST, 3, 1), entry(SECOND, 2)])
    assert ids(batch.events) == [1, 2, 3]
    assert list(zip(batch.events["entry"], batch.events["position"], strict=True)) == [(0, 1), (1, 0), (0, 0)]
    assert not len(batch.duplicates)
    assert len(batch.totals.pairs) == 1


def test_event_in_two_entries_is_one_use_and_one_duplicate() -> None:
    batch = batch_of([entry(FIRST, 1), entry(SECOND, 1)])
    assert (ids(batch.events), batch.events["entry"].tolist()) == ([1], [0])
    assert (ids(batch.duplicates), batch.duplicates["entry"].tolist()) == ([1], [1])


def test_one_id_at_two_times_is_two_events() -> None:
    other = entry(SECOND, 1)
    other.events["occurred_at"] -= 1
    batch = batch_of([entry(FIRST, 1), other])
    assert (batch.events["entry"].tolist(), len(batch.duplicates)) == ([1, 0], 0)


def test_known_events_are_duplicates_of_new_entries() -> None:
    batch = batch_of([entry(FIRST, 1, 2)], {FIRST}, [0])
    assert (ids(batch.events), ids(batch.duplicates)) == ([2], [1])


def test_known_events_of_redelivered_entries_are_not_duplicates_again() -> None:
    batch = batch_of([entry(FIRST, 1, 2)], set(), [0])
    assert (ids(batch.events), ids(batch.duplicates)) == ([2], [])


def test_events_without_id_are_dropped_from_redelivered_entries() -> None:
    batch = batch_of([entry(FIRST, 1, anonymous=True)], set())
    assert (ids(batch.events), ids(batch.duplicates)) == ([], [])


def test_event_of_a_dropped_entry_does_not_suppress_another_with_its_id() -> None:
    batch = batch_of([entry(FIRST, 1, anonymous=True), entry(SECOND, 1)], {SECOND})
    assert (ids(batch.events), batch.events["entry"].tolist(), ids(batch.duplicates)) == ([1], [1], [])


def test_pack_twice_in_batch_counts_once_without_duplicates() -> None:
    batch = batch_of([entry(FIRST, 1), entry(FIRST, 1)])
    assert (ids(batch.events), ids(batch.duplicates)) == ([1], [])


def test_batch_does_not_change_what_it_is_given() -> None:
    first_seen, given = {FIRST}, [entry(FIRST, 1), entry(SECOND, 2)]
    arrays = [it.events for it in given]
    batch_of(given, first_seen)
    assert first_seen == {FIRST}
    assert [array["entry"].tolist() for array in arrays] == [[0], [0]]
    assert events_of(given)["entry"].tolist() == [0, 1]


def test_events_of_batch_are_in_memory_once() -> None:
    given = [entry(FIRST, 3, 1), entry(SECOND, 2)]
    batch = batch_of(given)
    assert all(np.shares_memory(it.events, batch.events.array) for it in given)
    assert batch.events.array is batch.duplicates.array


def test_batch_may_hold_no_event() -> None:
    batch = batch_of([entry(FIRST)])
    assert (len(batch.events), len(batch.duplicates)) == (0, 0)
