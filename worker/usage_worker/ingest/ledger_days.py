"""The days of a batch: their partitions, and which of those of a backfill are past counting."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from usage_worker.errors import LockHeldError
from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.event_array import days_of
from usage_worker.store.ledger_days import open_day, open_past_days

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from usage_worker.ingest.batch import Batch
    from usage_worker.store.connection import Store


class LedgerDays:
    """Opens the days of batches, before the transaction that counts them.

    A batch that created the partition of a day would keep others from creating theirs until it commits, also those that
    have the rows for which it waits.

    Attributes:
        opened_past: the days before the acceptance window that the batch in hand may count. Its transaction must not
            create their partitions: one that is missing by then was dropped, with events that would be counted again.
    """

    def __init__(self, store: Store, accept_days: int) -> None:
        self._store = store
        self._accept_days = accept_days
        self.opened_past: frozenset[str] = frozenset()
        self._opened_recent: set[str] = set()

    def admit(self, batch: Batch) -> Batch:
        """Open the days of a batch that was just built; return it without the events of days that cannot be opened.

        While another session holds the ledger and a day of a backfill is missing, the backfills are left out, and wait.
        """
        self.opened_past = frozenset()
        backfills = [entry for entry in batch.entries if entry.raw.is_backfill]
        if not backfills:
            self._open_recent(batch.totals.days)
            return batch
        days = np.unique(np.concatenate([days_of(entry.events) for entry in backfills]))
        try:
            reasons = open_past_days(self._store, list(map(str, days)), self._accept_days)
        except LockHeldError:
            return self.admit(_without_backfills(batch))
        refused = {day: reason for day, reason in reasons.items() if reason}
        self.opened_past = frozenset(reasons.keys() - refused.keys())
        self._open_recent(batch.totals.days - reasons.keys())
        if not refused:
            return batch
        for entry in backfills:
            entry.refuse_days(refused)
        return batch_of(batch.entries)

    def _open_recent(self, days: AbstractSet[str]) -> None:
        """Open days, once in this process; the batch refuses the events of one that cannot be opened.

        While another session holds the ledger, it lets them wait and counts those of other days.
        """
        for day in sorted(days - self._opened_recent):
            with suppress(LockHeldError):
                if open_day(self._store, day) is None:
                    self._opened_recent.add(day)


def _without_backfills(batch: Batch) -> Batch:
    """Return a batch without its backfills, all of whose events wait for the next delivery."""
    for entry in batch.entries:
        if entry.raw.is_backfill:
            entry.waiting = entry.events["position"].tolist()
    return batch_of([entry for entry in batch.entries if not entry.raw.is_backfill])
