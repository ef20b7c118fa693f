"""The task `maintenance.manage_partitions`: create partitions before their day, drop them after their retention.

A day without a partition loses nothing, since ingest creates it; that makes the first batch of the day slower.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.errors import BusyError, LockHeldError, ObstacleError, StoreUnavailableError, UsageError
from usage_worker.logs import get_logger
from usage_worker.maintenance.deadline import Deadline
from usage_worker.maintenance.hours import HOURS
from usage_worker.maintenance.partitioned_table import HOURLY, LEDGER, partitioned_tables
from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.correct import delete_old_corrections
from usage_worker.store.hours import roll_up_day, roll_up_marked_hours
from usage_worker.store.partitions import (
    delete_old_entries,
    delete_old_keys,
    drop_partition,
    make_partition,
    partitions,
    unmark_partitions,
)
from usage_worker.store.usage_summary import local_day

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date, datetime

    from usage_worker.maintenance.partitioned_table import Partitioned
    from usage_worker.maintenance.task_run import OnProgress
    from usage_worker.postgres import Connection
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store
    from usage_worker.store.partitions import DeletedRows

    DeleteChunk = Callable[[Store, str, date, datetime | None], DeletedRows]

MANAGE_PARTITIONS = "maintenance.manage_partitions"
# Attempts at a step before it is left to the next run; they take some seconds.
STEP_ATTEMPTS = 20
STEP_PAUSE_SECONDS = 0.25
DELETE_SECONDS = 30.0
# A step cannot be tried again for as long as another process rolls up hours: a day of a million events takes 5 s of the
# processor, and took 42 s on a busy machine.
HOURS_WAIT_SECONDS = 60.0

log = get_logger("partitions")


@dataclass(frozen=True, slots=True)
class PartitionCoverage:
    """The number of days after today for which a table has partitions, and the number that is configured."""

    table: str
    ahead_days: int
    wanted_days: int

    @property
    def is_short(self) -> bool:
        """Whether so few are left that runs must have failed or been missed for days."""
        return self.ahead_days < self.wanted_days / 2


@dataclass(slots=True)
class PartitionsReport:
    """What a run did; filled as it goes on, so that it can be read after an interruption."""

    created: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """The partitions that are left to the next run, with the reason."""
    deleted_entries: int = 0
    deleted_keys: int = 0
    deleted_corrections: int = 0
    ahead_days: dict[str, int] = field(default_factory=dict)
    short: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def manage_partitions(
    store: Store,
    settings: Settings,
    on_progress: OnProgress = lambda _done, _total: None,
    report: PartitionsReport | None = None,
) -> PartitionsReport:
    """Create partitions ahead, drop those past their retention, delete what goes with them, check the coverage.

    Raises:
        BusyError: another process is at work.
        StoreUnavailableError: the rest is left to the next run.
    """
    report = report or PartitionsReport()
    run = _PartitionsRun(store, settings, on_progress, report)
    for table in partitioned_tables(settings):
        run.make(table)
        # Last, and not while the ledger keeps days that are past their retention: their hours may be rolled up again.
        if table.table != HOURLY or not report.failed:
            run.drop(table)
    run.delete_old_entries()
    run.delete_old_keys()
    run.delete_old_corrections()
    for coverage in partition_coverage(store, settings):
        report.ahead_days[coverage.table] = coverage.ahead_days
        if coverage.is_short:
            report.short.append(coverage.table)
            log.error(
                "partitions are short",
                table=coverage.table,
                ahead_days=coverage.ahead_days,
                wanted=coverage.wanted_days,
            )
    return report


def run_manage_partitions(store: Store, settings: Settings) -> dict[str, Any]:
    """Create partitions ahead and drop those past their retention."""
    report = PartitionsReport()
    return run_task(
        store, MANAGE_PARTITIONS, lambda: manage_partitions(store, settings, report=report), partial_report=report
    )


def partition_coverage(store: Store, settings: Settings) -> list[PartitionCoverage]:
    """Return the partition coverage of every table."""
    day, wanted = local_day(store, "UTC"), settings.partitions_ahead_days
    return [
        PartitionCoverage(table.table, table.ahead_days(day, _attached(store, table)), wanted)
        for table in partitioned_tables(settings)
    ]


class _PartitionsRun:
    """One run, which takes place on one day even if it passes midnight."""

    def __init__(self, store: Store, settings: Settings, on_progress: OnProgress, report: PartitionsReport) -> None:
        self._store = store
        self._settings = settings
        self._on_progress = on_progress
        self._report = report
        self._today = local_day(store, "UTC")

    def make(self, table: Partitioned) -> None:
        """Create the partitions that are missing."""
        attached = _attached(self._store, table)
        wanted = {table.name(first): first for first in table.wanted(self._today, self._settings.partitions_ahead_days)}
        steps = {
            name: partial(
                make_partition, self._store, MANAGE_PARTITIONS, table.table, name, ensure=table.ensure, day=first
            )
            for name, first in wanted.items()
            if name not in attached
        }
        self._execute(steps, self._report.created)

    def drop(self, table: Partitioned) -> None:
        """Drop the partitions that are past their retention."""
        try:
            unmark_partitions(self._store, MANAGE_PARTITIONS, table.table)
        except (BusyError, StoreUnavailableError):
            raise
        except UsageError as error:
            log.warning("marks of failed drops stay", table=table.table, reason=str(error))
        found = partitions(self._store, table.table)
        # A table can have only one partition that is half detached: finish it first.
        ours = [name for name, state in found.items() if state != "leaving"]
        expired = sorted((found[name] != "pending", name) for name in ours if table.is_expired(name, self._today))
        self._execute({name: partial(self._drop, table, name) for _, name in expired}, self._report.dropped)

    def _drop(self, table: Partitioned, name: str) -> bool:
        """Drop a partition; of the ledger, after its hours and the day are rolled up."""
        drop = partial(drop_partition, self._store, MANAGE_PARTITIONS, table.table, name)
        day = table.begin(name)
        if table.table != LEDGER or day is None:
            return drop()
        # So that no reader misses the marked hours while the partition is detached. What a batch adds until then is in
        # the detached partition.
        _in_turn(partial(roll_up_marked_hours, self._store, HOURS, day))

        def roll_up(session: Connection) -> None:
            _in_turn(partial(roll_up_day, session, task=HOURS, day=day, partition=name))

        return drop(before_drop=roll_up)

    def delete_old_entries(self) -> None:
        """Delete the keys of stream entries whose events the ledger has dropped.

        If such an entry was delivered again, nothing would be counted: its events are older than the ledger, too.
        """
        before = self._today - timedelta(days=self._settings.retention_days)
        for deleted in self._delete(delete_old_entries, before):
            self._report.deleted_entries += deleted
            self._on_progress(self._report.deleted_entries, None)

    def delete_old_keys(self) -> None:
        """Delete the keys of events without a time whose first time is older than the acceptance window."""
        before = self._today - timedelta(days=self._settings.accept_window.days)
        for deleted in self._delete(delete_old_keys, before):
            self._report.deleted_keys += deleted
            self._on_progress(self._report.deleted_keys, None)

    def delete_old_corrections(self) -> None:
        """Delete the history of corrected events that the ledger has dropped."""
        before = self._today - timedelta(days=self._settings.retention_days)
        self._report.deleted_corrections = delete_old_corrections(self._store, MANAGE_PARTITIONS, before)

    def _delete(self, delete_chunk: DeleteChunk, before: date) -> Iterator[int]:
        """Delete rows of before a day by chunks; yield the size of each."""
        deadline, reached = Deadline(DELETE_SECONDS), None
        while not deadline.is_over:
            chunk = delete_chunk(self._store, MANAGE_PARTITIONS, before, reached)
            if not chunk.rows:
                return
            reached = chunk.reached
            yield chunk.rows

    def _execute(self, steps: Mapping[str, Callable[[], bool]], done: list[str]) -> None:
        """Execute the steps in turn, up to the first that fails.

        What blocks one blocks those after it. Another run may have done some already.
        """
        for number, (name, step) in enumerate(steps.items()):
            self._on_progress(number, len(steps))
            try:
                is_done = retry(step, attempts=STEP_ATTEMPTS, pause=_short)
            except (BusyError, StoreUnavailableError):
                raise
            except UsageError as error:
                self._report.failed[name] = str(error)
                log.warning("a partition is left to the next run", partition=name, reason=str(error))
                return
            if is_done:
                done.append(name)


def _in_turn(roll_up: Callable[[], object]) -> None:
    """Roll up hours after another process that does.

    Raises:
        ObstacleError: its turn did not come. BusyError would end the run, and LockHeldError would begin another wait.
    """
    try:
        retry(roll_up, HOURS_WAIT_SECONDS)
    except (BusyError, LockHeldError) as error:
        raise ObstacleError(str(error)) from error


def _short(_attempt: int) -> float:
    """Return a short pause: a step gives way to others at once, and must try often."""
    return random.uniform(STEP_PAUSE_SECONDS / 5, STEP_PAUSE_SECONDS)  # noqa: S311 - jitter is no secret


def _attached(store: Store, table: Partitioned) -> set[str]:
    return {name for name, state in partitions(store, table.table).items() if state == "attached"}
