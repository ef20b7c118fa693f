"""Rows that others hold: the events of their pairs wait for the next delivery, all others are counted."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from usage_worker.ingest.pessimism import PessimisticMode
from usage_worker.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from usage_worker.events.event import Pair, Record
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.store import BatchTransaction, EventIdentity

log = get_logger("ingest")

# Rows that cannot be seen yet, and foreign keys, hold a pair, too. These are found by trying, which may take so long.
_TRYING_SECONDS = 2.0


class HeldRows:
    """Finds the pairs of a batch that others hold; `events` are those of this transaction that wait.

    In its pessimistic `mode` it looks for them first: a lock that is not given in time costs two seconds.
    """

    def __init__(self) -> None:
        self.events: set[EventIdentity] = set()
        self.holders = ""
        self.mode = PessimisticMode()
        self._deadline: float | None = None

    @contextmanager
    def begin(self, transaction: BatchTransaction) -> Iterator[None]:
        """Count records in the block; look for held rows from the start where there were some lately."""
        self.events, self._deadline = set(), None
        if not self.mode:
            yield
            return
        with transaction.short_lock_waits():
            yield
        if self.events:
            self.mode.trip()
            self.holders = transaction.holders()
            log.warning("rows are held by others", events=len(self.events), holders=self.holders)

    def free(self, transaction: BatchTransaction, records: list[Record]) -> list[Record]:
        """Return the records whose rows nobody holds, as far as that can be seen.

        Raises:
            LockHeldError: somebody holds a whole table.
        """
        if not self.mode or not records:
            return records
        transaction.check_tables()
        held = transaction.held_pairs({_pair(record) for record in records})
        self._wait([record for record in records if _pair(record) in held])
        return [record for record in records if _pair(record) not in held]

    def parts(self, records: list[Record]) -> list[list[Record]]:
        """Return the parts in which to try records again of which some pair could not be locked."""
        if self._deadline is None:
            self._deadline = time.monotonic() + _TRYING_SECONDS
        pairs = sorted({_pair(record) for record in records})
        if len(pairs) == 1 or time.monotonic() > self._deadline:
            self._wait(records)
            return []
        first = set(pairs[: len(pairs) // 2])
        return [[record for record in records if (_pair(record) in first) == half] for half in (True, False)]

    def note(self, transaction: BatchTransaction, entries: Sequence[DecodedEntry], waited: AbstractSet[UUID]) -> None:
        """Note the events that wait, each at the first entry that has it; the other entries have counted a duplicate.

        `waited` are the entries of which events waited before.
        """
        if not self.events and not waited:
            return
        left, waiting = set(self.events), {}
        for entry in entries:
            for position, record in zip(entry.positions, entry.records, strict=True):
                if record[:2] in left:
                    left.remove(record[:2])
                    entry.waiting.append(position)
                    waiting[entry.key] = entry
        for key, entry in waiting.items():
            transaction.note_waiting(key, entry.entry_id, entry.waiting)
        for key in waited - waiting.keys():
            transaction.note_waiting(key, "", ())

    def _wait(self, records: list[Record]) -> None:
        self.events.update(record[:2] for record in records)


def _pair(record: Record) -> Pair:
    return record[3], record[4]
