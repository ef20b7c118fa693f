"""Rows that others hold: the events of their pairs wait for the next delivery, all others are counted."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from usage_worker.errors import LockHeldError
from usage_worker.ingest.event_array import EVENT, are_in, pairs_of
from usage_worker.ingest.pessimism import PessimisticMode
from usage_worker.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.event_array import Chosen, Events
    from usage_worker.store.batch import BatchTransaction

log = get_logger("ingest")

# Rows that cannot be seen yet, and foreign keys, hold a pair, too. These are found by trying, which may take so long.
_TRYING_SECONDS = 2.0

T = TypeVar("T")


class HeldRows:
    """Leaves out what others hold: pairs, of which `events` wait, and rows that others are inserting.

    In its pessimistic `mode` it looks for them first: a lock that is not given in time costs two seconds.
    """

    def __init__(self) -> None:
        self.events: Events = np.zeros(0, EVENT)
        self.holders = ""
        self.mode = PessimisticMode()
        self._deadline: float | None = None

    @contextmanager
    def begin(self, transaction: BatchTransaction) -> Iterator[None]:
        """Count events in the block; look for held rows from the start where there were some lately."""
        self.events, self._deadline = self.events[:0], None
        if not self.mode:
            yield
            return
        with transaction.short_lock_waits():
            yield
        if len(self.events):
            self._found(transaction, events=len(self.events))

    def free(self, transaction: BatchTransaction, events: Chosen) -> Chosen:
        """Return the events whose rows nobody holds, as far as that can be seen.

        Raises:
            LockHeldError: somebody holds a whole table.
        """
        if not self.mode or not len(events):
            return events
        transaction.check_tables()
        pairs = pairs_of(events)
        if not (held := transaction.held_pairs(set(pairs))):
            return events
        is_held = are_in(pairs, held)
        self._wait(events[is_held])
        return events[~is_held]

    def parts(self, events: Chosen) -> list[Chosen]:
        """Return the parts in which to try events again of which some pair could not be locked."""
        if self._deadline is None:
            self._deadline = time.monotonic() + _TRYING_SECONDS
        pairs = pairs_of(events)
        different = sorted(set(pairs))
        if len(different) == 1 or time.monotonic() > self._deadline:
            self._wait(events)
            return []
        is_first = are_in(pairs, set(different[: len(different) // 2]))
        return [events[is_first], events[~is_first]]

    def insert(
        self, transaction: BatchTransaction, write: Callable[[Sequence[T]], None], rows: Sequence[T], name: str
    ) -> Sequence[T]:
        """Insert rows that no event depends on; return those that other transactions are inserting.

        They are found by halving, for two seconds: what is untried then is returned with them.

        Args:
            transaction: the transaction.
            write: inserts rows, or raises.
            rows: the rows.
            name: what they are, for the log.

        Raises:
            LockHeldError: others are inserting some; the next attempt, in its `mode`, finds out which.
        """
        if not rows:
            return ()
        if not self.mode:
            write(rows)
            return ()
        with transaction.short_lock_waits():
            held = _insert(transaction, write, rows, time.monotonic() + _TRYING_SECONDS)
        if held:
            self._found(transaction, **{name: len(held)})
        return held

    def note(self, transaction: BatchTransaction, entries: Sequence[DecodedEntry], waited: AbstractSet[UUID]) -> None:
        """Note the events that wait, each at the entry from which it was to be counted.

        `waited` are the entries of which events waited before.
        """
        waiting: dict[UUID, DecodedEntry] = {}
        for event in np.sort(self.events, order=["entry", "position"]):
            entry = entries[event["entry"]]
            entry.waiting.append(int(event["position"]))
            waiting[entry.key] = entry
        for key, entry in waiting.items():
            transaction.note_waiting(key, entry.entry_id, entry.waiting)
        for key in waited - waiting.keys():
            transaction.note_waiting(key, "", ())

    def _found(self, transaction: BatchTransaction, **numbers: int) -> None:
        self.mode.trip()
        self.holders = transaction.holders()
        log.warning("rows are held by others", **numbers, holders=self.holders)

    def _wait(self, events: Chosen) -> None:
        self.events = np.concatenate([self.events, events.copied()])


def _insert(
    transaction: BatchTransaction, write: Callable[[Sequence[T]], None], rows: Sequence[T], deadline: float
) -> Sequence[T]:
    """Insert rows, halving those that must wait for a lock; return those that others are inserting."""
    try:
        with transaction.savepoint():
            write(rows)
    except LockHeldError:
        if len(rows) == 1 or time.monotonic() > deadline:
            return rows
        middle = len(rows) // 2
        return [row for half in (rows[:middle], rows[middle:]) for row in _insert(transaction, write, half, deadline)]
    return ()
