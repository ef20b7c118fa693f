"""`maintenance.purge_soft_deleted`: what people deleted, and nobody restored, goes for good; so do ended shares."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store import (
    delete_expired_shares,
    delete_retired_days,
    purge_blocks,
    purge_chunk,
    purge_due,
    require_rls_bypass,
    retained_days,
)

if TYPE_CHECKING:
    from datetime import timedelta

    from usage_worker.maintenance.task_run import OnProgress
    from usage_worker.settings import Settings
    from usage_worker.store import Store

PURGE = "maintenance.purge_soft_deleted"
# So few that a batch of ingest which meets one of them waits for milliseconds.
CHUNK_ROWS = 500
FORGET_ROWS = 10_000
# After each chunk, so many times as long as it took: who counts meanwhile has most of the database to himself.
REST = 2.0


@dataclass(slots=True)
class PurgeReport:
    """What a run did; filled while it goes on, so that whoever interrupts it can still read it."""

    purged: int = 0
    remaining: int = 0
    """Rows that are due and still there: the time was up, or somebody was changing them."""
    oldest_remaining_seconds: float | None = None
    """How long ago the oldest of them was deleted."""
    expired_shares: int = 0
    """Shares that had expired."""
    deleted_retired_days: int = 0
    """Daily sums of ended lives that were dropped, since the ledger has their day no longer."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def purge(
    store: Store,
    older_than: timedelta,
    budget: float | None = None,
    *,
    dry_run: bool = False,
    wait_timeout: float = 0.0,
    on_progress: OnProgress = lambda _done, _total: None,
    report: PurgeReport | None = None,
) -> PurgeReport:
    """Purge what was deleted longer ago than that; ends when nothing is due or `budget` seconds are spent.

    A pair goes with its conversations, days and shares; if it is used again, it begins with new counters. Shares that
    have expired go, too.

    Raises:
        BusyError: another process was purging for `patience` seconds.
        SettingsError: row-level security would hide rows from us.
        StoreUnavailableError: the rest is left to the next run.
    """
    report = report or PurgeReport()
    require_rls_bypass(store)
    due = purge_due(store, older_than)
    if not dry_run:
        deadline = None if budget is None else time.monotonic() + budget
        run = _PurgeRun(store, deadline, wait_timeout, report)
        run.purge(older_than, due.remaining, on_progress)
        run.delete_expired_shares()
        run.delete_retired_days()
        due = purge_due(store, older_than)
    report.remaining, report.oldest_remaining_seconds = due
    return report


def run_purge(store: Store, settings: Settings) -> dict[str, Any]:
    """Purge rows that were soft-deleted and not restored in time."""
    report = PurgeReport()
    work = partial(purge, store, settings.purge_after, settings.purge_budget, report=report)
    return run_task(store, PURGE, work, partial_report=report)


class _PurgeRun:
    """One run and its bounds."""

    def __init__(self, store: Store, deadline: float | None, wait_timeout: float, report: PurgeReport) -> None:
        self._store = store
        self._deadline = deadline
        self._patience = wait_timeout
        self._report = report

    def purge(self, older_than: timedelta, due: int, on_progress: OnProgress) -> None:
        """Chunk by chunk, until nothing is due but what somebody is changing."""
        before = -1
        while before < self._report.purged:
            before = self._report.purged
            for places in purge_blocks(self._store, older_than, CHUNK_ROWS):
                if self._is_over():
                    return
                began = time.monotonic()
                step = partial(purge_chunk, self._store, PURGE, places, older_than)
                self._report.purged += retry(step, self._patience)
                on_progress(self._report.purged, due)
                time.sleep(REST * (time.monotonic() - began))

    def delete_expired_shares(self) -> None:
        """Remove the shares that have expired."""
        while not self._is_over():
            ended = retry(partial(delete_expired_shares, self._store, PURGE, CHUNK_ROWS), self._patience)
            self._report.expired_shares += ended
            if not ended:
                return

    def delete_retired_days(self) -> None:
        """Forget what stands for days that the ledger has forgotten."""
        days = retained_days(self._store)
        while days and not self._is_over():
            forgotten = retry(partial(delete_retired_days, self._store, PURGE, days[0], FORGET_ROWS), self._patience)
            self._report.deleted_retired_days += forgotten
            if forgotten < FORGET_ROWS:
                return

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline
