"""The days of a backfill before the acceptance window: their partitions, and which of them are past counting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.event_array import days_of
from usage_worker.store import open_past_days

if TYPE_CHECKING:
    from usage_worker.ingest.batch import Batch
    from usage_worker.store import Store


class PastDays:
    """Opens days for the backfills of batches, before the transaction that counts them.

    A batch that created the partition of a day would keep others from creating theirs until it commits.

    Attributes:
        opened: the days before the acceptance window that the batch in hand may count. Its transaction must not create
            their partitions: one that is missing by then was dropped, with events that would be counted again.
    """

    def __init__(self, store: Store, accept_days: int) -> None:
        self._store = store
        self._accept_days = accept_days
        self.opened: frozenset[str] = frozenset()

    def admit(self, batch: Batch) -> Batch:
        """Open the days of a batch that was just built; return it without the events of days that cannot be opened.

        Raises:
            LockHeldError: another session holds the ledger; try it again.
        """
        self.opened = frozenset()
        backfills = [entry for entry in batch.entries if entry.raw.is_backfill]
        if not backfills:
            return batch
        days = np.unique(np.concatenate([days_of(entry.events) for entry in backfills]))
        reasons = open_past_days(self._store, list(map(str, days)), self._accept_days)
        refused = {day: reason for day, reason in reasons.items() if reason}
        self.opened = frozenset(reasons.keys() - refused.keys())
        if not refused:
            return batch
        for entry in backfills:
            entry.refuse_days(refused)
        return batch_of(batch.entries)
