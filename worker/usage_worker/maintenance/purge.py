"""The task `maintenance.purge_soft_deleted`: delete rows that were soft-deleted long enough ago, and expired shares."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.errors import LockHeldError
from usage_worker.maintenance.deadline import Deadline
from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.purge import delete_expired_shares, delete_retired_days, purge_blocks, purge_chunk, purge_due
from usage_worker.store.reconcile import retained_days

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from usage_worker.maintenance.task_run import OnProgress
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

PURGE = "maintenance.purge_soft_deleted"
# Few enough that a batch of ingest waits for milliseconds.
CHUNK_ROWS = 500
RETIRED_ROWS = 10_000
# A pass ends after so many held chunks in a row: others probably hold a whole table.
HELD_IN_ROW = 10
# Pause after each chunk, as a multiple of its duration, which leaves most of the database to ingest.
REST = 2.0


@dataclass(slots=True)
class PurgeReport:
    """What a run did; filled as it goes on, so that it can be read after an interruption."""

    purged: int = 0
    # Not compared: `run_task` records no busy run whose report equals a new one, and counting what is due is no work.
    remaining: int = field(default=0, compare=False)
    """Number of rows that are due and remain: the budget was spent, or somebody was changing them."""
    oldest_remaining_seconds: float | None = field(default=None, compare=False)
    """Seconds since the oldest of them was soft-deleted."""
    expired_shares: int = 0
    """Number of expired shares that were deleted."""
    deleted_retired_days: int = 0
    """Number of retired rows that were deleted, since the ledger has dropped their day."""

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
    """Delete the rows that were soft-deleted longer ago than `older_than`, and expired shares.

    A pair is deleted with its conversations, days and shares; if it is used again, its counters begin at zero.

    Args:
        store: the database.
        older_than: the least age of the soft delete.
        budget: seconds after which the run ends; by default it ends when nothing is due.
        dry_run: count the rows that are due without deleting them.
        wait_timeout: seconds to wait for another process that is purging, or for others who hold what is to be deleted.
        on_progress: called after each chunk.
        report: the report to fill.

    Raises:
        BusyError: another process was still purging after `wait_timeout` seconds.
        LockHeldError: others held something of some chunks, which wait for the next run; all others are deleted.
        StoreUnavailableError: PostgreSQL is away; the rest is left to the next run.
    """
    report = report or PurgeReport()
    report.remaining, report.oldest_remaining_seconds = purge_due(store, older_than)
    run = None
    if not dry_run:
        run = _PurgeRun(store, Deadline(budget), wait_timeout, report)
        run.purge(older_than, on_progress)
        run.delete_expired_shares()
        run.delete_retired_days()
        report.remaining, report.oldest_remaining_seconds = purge_due(store, older_than)
    if run and run.held:
        advice = "it waits for the next run; if the holder never ends, pg_terminate_backend(pid) ends it"
        raise LockHeldError(f"{run.held.detail}; {advice}")
    return report


def run_purge(store: Store, settings: Settings) -> dict[str, Any]:
    """Purge rows that were soft-deleted and not restored in time."""
    report = PurgeReport()
    work = partial(purge, store, settings.purge_after, settings.purge_budget, report=report)
    return run_task(store, PURGE, work, partial_report=report)


class _PurgeRun:
    """One run and its limits.

    Attributes:
        held: why the last pass has left something; None where it has not.
    """

    def __init__(self, store: Store, deadline: Deadline, wait_timeout: float, report: PurgeReport) -> None:
        self._store = store
        self._deadline = deadline
        self._wait_timeout = wait_timeout
        self._report = report
        self._waits_for_holders = True
        self.held: LockHeldError | None = None

    def purge(self, older_than: timedelta, on_progress: OnProgress) -> None:
        """Delete chunk by chunk until only rows are due that somebody is changing."""
        due, before = self._report.remaining, -1
        while before < self._report.purged:
            before, self.held, in_row = self._report.purged, None, 0
            for places in purge_blocks(self._store, older_than, CHUNK_ROWS):
                if self._deadline.is_over or in_row == HELD_IN_ROW:
                    return
                started = time.monotonic()
                step = partial(purge_chunk, self._store, PURGE, places, older_than)
                deleted = self._deleted(step)
                self._report.purged += deleted
                self._report.remaining = max(due - self._report.purged, 0)
                on_progress(self._report.purged, due)
                in_row = in_row + 1 if self.held and not deleted else 0
                if deleted:
                    time.sleep(REST * (time.monotonic() - started))

    def delete_expired_shares(self) -> None:
        """Delete the shares that have expired."""
        while not self._deadline.is_over:
            deleted = self._deleted(partial(delete_expired_shares, self._store, PURGE, CHUNK_ROWS))
            self._report.expired_shares += deleted
            if not deleted:
                return

    def delete_retired_days(self) -> None:
        """Delete the retired rows of days that the ledger has dropped."""
        days = retained_days(self._store)
        while days and not self._deadline.is_over:
            deleted = self._deleted(partial(delete_retired_days, self._store, PURGE, days[0], RETIRED_ROWS))
            self._report.deleted_retired_days += deleted
            if deleted < RETIRED_ROWS:
                return

    def _deleted(self, step: Callable[[], int]) -> int:
        """Return how many rows a step has deleted: 0 where others hold some. Only the first one waits for them."""

        def attempt() -> int:
            try:
                return step()
            except LockHeldError as error:
                if self._waits_for_holders:
                    raise
                self.held = error
                return 0

        try:
            return retry(attempt, self._wait_timeout)
        except LockHeldError as error:
            self.held, self._waits_for_holders = error, False
            return 0
