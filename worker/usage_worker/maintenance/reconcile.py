"""The task `maintenance.reconcile`: compare counters, roll-up, ledger and intake totals, and repair the first two.

The ledger is right about the days that it has, the days are right about the counters, and the recorded conversations
about their number; what counters have beyond all of them is not removed. Every comparison is one statement, so events
that are counted meanwhile make no difference.

A replica for reports is compared in place of the database, except by repairs. It is behind: what differs there is
compared again in the database, and reported if it differs there, too.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from usage_worker.errors import ArgumentError
from usage_worker.logs import get_logger
from usage_worker.maintenance.deadline import Deadline
from usage_worker.maintenance.differences import (
    Difference,
    ReconcileReport,
    list_differences,
    without_explained,
)
from usage_worker.maintenance.intake_differences import intake_differences
from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task, shown_figures
from usage_worker.store.connection import Store
from usage_worker.store.hours import different_hours, mark_different_hours
from usage_worker.store.reconcile import (
    FIRST_PAIR,
    any_pair,
    count_pairs,
    counter_differences,
    day_differences,
    next_pairs,
    repair_counters,
    repair_day,
    retained_days,
)
from usage_worker.store.task_runs import last_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import date

    from usage_worker.maintenance.task_run import OnProgress
    from usage_worker.settings import Settings
    from usage_worker.store.reconcile import PairDifference, PairKey, RepairStep

RECONCILE = "maintenance.reconcile"
# What one statement compares: a number of pairs, or the pairs of a number of rows.
CHUNK_PAIRS, CHUNK_ROWS = 5_000, 100_000
# Pairs that a repair locks at once, so that a batch of ingest waits for milliseconds.
REPAIR_PAIRS = 1_000
# Seconds. Two repairs at once take turns.
WAIT_TIMEOUT_SECONDS = 600.0

T = TypeVar("T")

log = get_logger("reconcile")


@dataclass(frozen=True, slots=True)
class Scope:
    """The days to compare, from `first` to `last`; None stands for the oldest or newest day of the ledger."""

    first: date | None = None
    last: date | None = None

    def days(self, store: Store) -> list[date]:
        """Return the days of the ledger within the scope."""
        return [
            day
            for day in retained_days(store)
            if (self.first is None or day >= self.first) and (self.last is None or day <= self.last)
        ]


def reconcile(
    store: Store,
    settings: Settings,
    scope: Scope = Scope(),
    *,
    repair: bool = False,
    accept_unexplained: bool = False,
    replica: Store | None = None,
    budget: float | None = None,
    on_progress: OnProgress = lambda _done, _total: None,
    report: ReconcileReport | None = None,
) -> ReconcileReport:
    """Compare the days with the ledger, the counters with the days, and the intake totals with the ledger.

    Hours that differ from the ledger are marked, so that the task `analytics.hours` rolls them up again.

    Args:
        store: the database.
        settings: the settings.
        scope: the days to compare.
        repair: set days to the sums of the ledger and counters to those of the days, while counting goes on. A counter
            is never lowered: what neither ledger nor days explain stays.
        accept_unexplained: repair, and turn what is unexplained into opening balance; needs all days.
        replica: a replica of the database that is compared in its place, unless this is a repair.
        budget: seconds after which the run ends early.
        on_progress: called before each step.
        report: the report to fill.

    Raises:
        BusyError: another repair did not let this one have its turn.
        ArgumentError: unexplained figures were to be accepted on some days only.
        StoreUnavailableError: PostgreSQL or the replica is away; earlier repairs are committed.
        RecoveryConflictError: the replica has cancelled a comparison too often.
    """
    if accept_unexplained and scope != Scope():
        # What is explained by a day left out would be counted again when that day is repaired.
        raise ArgumentError("--accept-unexplained compares all days: leave out --from and --to")
    report = report or ReconcileReport()
    repair = repair or accept_unexplained
    compared = store if repair or replica is None else replica
    run = _ReconcileRun(store, compared, report, repair=repair, accept=accept_unexplained)
    try:
        report.complete = _execute(
            run.steps(scope, settings.accept_days, shuffled=budget is not None), budget, on_progress
        )
    finally:
        run.finish()
    if not report.complete or scope != Scope():
        report.left_elsewhere = max(_left_before(store) - report.left, 0)
    if not report.complete:
        log.warning("the time budget did not suffice", budget=budget, **shown_figures(report.as_dict()))
    elif report.left:
        log.error("figures differ", different=len(report.differences), left=report.left, unexplained=report.unexplained)
    return report


def _left_before(store: Store) -> int:
    """Return the number of differences that the last run left, with those that it took over from runs before it."""
    run = last_runs(store).get(RECONCILE)
    return sum(run.report.get(name, 0) for name in ("left", "left_elsewhere")) if run else 0


def _execute(steps: Iterable[Callable[[], None]], budget: float | None, on_progress: OnProgress) -> bool:
    """Execute the steps in order. Returns whether the budget (seconds) sufficed for all of them."""
    deadline = Deadline(budget)
    for done, step in enumerate(steps):
        if deadline.is_over:
            return False
        on_progress(done, None)
        step()
    return True


def run_reconcile(store: Store, settings: Settings) -> dict[str, Any]:
    """Compare counters, roll-up, ledger and intake totals."""
    with ExitStack() as stack:
        replica = stack.enter_context(Store.for_reports(settings)) if settings.report_database_url else None
        work = partial(reconcile, store, settings, replica=replica, budget=settings.reconcile_budget)
        return run_task(store, RECONCILE, work)


class _ReconcileRun:
    """One run, which fills the report."""

    def __init__(self, store: Store, compared: Store, report: ReconcileReport, *, repair: bool, accept: bool) -> None:
        self._store = store
        self._compared = compared
        self._report = report
        self._repair = repair
        self._accept = accept
        # Days on which something looked unexplained before the other days were repaired.
        self._open_days: list[date] = []

    def steps(self, scope: Scope, accept_days: int, *, shuffled: bool) -> Iterable[Callable[[], None]]:
        """Yield the steps of the run in their order."""
        days = scope.days(self._compared)
        by_day: list[Callable[[], None]] = [partial(self._check_day, day) for day in days]
        if scope == Scope():
            by_day.append(partial(self._check_intake, days, accept_days))
        if self._repair:  # sets counters from repaired days
            return chain(by_day, self._close_days(), self._ranges())
        if not shuffled:
            return chain(self._ranges(), by_day)
        # Where the budget does not suffice for everything, each pair and each day has its turn on some night.
        start = any_pair(self._compared)
        random.shuffle(by_day)
        parts: list[Iterable[Callable[[], None]]] = [
            chain(self._ranges(start), self._ranges(FIRST_PAIR, start)),
            by_day,
        ]
        random.shuffle(parts)
        return chain(*parts)

    def finish(self) -> None:
        """Remove the mark of counters that a day explains, since the day may have been compared after them."""
        if not self._repair:
            self._report.differences = without_explained(self._report.differences)
            self._report.unexplained = sum(it.unexplained for it in self._report.differences)

    def _check_day(self, day: date) -> None:
        """Compare a day with the ledger."""
        if not self._repair:
            for row in self._confirmed(partial(day_differences, day=day)):
                self._add(list_differences(day, row))
        elif self._repair_all(
            partial(repair_day, self._store, RECONCILE, day, REPAIR_PAIRS, accept=False), day, final=False
        ):
            self._open_days.append(day)
        if self._compared is self._store or different_hours(self._compared, day):
            self._report.hours += mark_different_hours(self._store, day)
        self._report.days += 1

    def _close_days(self) -> Iterator[Callable[[], None]]:
        """Yield a step for every day with remaining differences, once no day is too low."""
        for day in self._open_days:
            yield partial(self._close_day, day)

    def _close_day(self, day: date) -> None:
        step = partial(repair_day, self._store, RECONCILE, day, REPAIR_PAIRS, accept=self._accept)
        self._repair_all(step, day)

    def _ranges(self, start: PairKey = FIRST_PAIR, stop: PairKey | None = None) -> Iterator[Callable[[], None]]:
        """Yield a step for every range of the pairs from `start` to before `stop`."""
        first: PairKey | None = start
        while first != stop and first is not None:
            end = next_pairs(self._compared, first, CHUNK_PAIRS, CHUNK_ROWS)
            if stop and (end is None or end > stop):
                end = stop
            yield partial(self._check_counters, first, end)
            first = end

    def _check_intake(self, days: Sequence[date], accept_days: int) -> None:
        self._add(self._confirmed(partial(intake_differences, days=days, accept_days=accept_days)))

    def _check_counters(self, first: PairKey, end: PairKey | None) -> None:
        """Compare the counters of a range of pairs with their days."""
        if self._repair:
            self._repair_all(
                partial(repair_counters, self._store, RECONCILE, first, end, REPAIR_PAIRS, accept=self._accept), None
            )
        else:
            for row in self._confirmed(partial(counter_differences, first=first, end=end)):
                self._add(list_differences(None, row))
        self._report.checked += count_pairs(self._compared, first, end)

    def _confirmed(self, compare: Callable[[Store], list[T]]) -> list[T]:
        """Return what differs, if it does so where it is written, too."""
        found = retry(partial(compare, self._compared))
        return retry(partial(compare, self._store)) if found and self._compared is not self._store else found

    def _repair_all(
        self, step: Callable[[PairKey | None], RepairStep], day: date | None, *, final: bool = True
    ) -> bool:
        """Repeat a repair until it meets no pair for the first time. Returns whether differences remain.

        Unless this is final, what looks unexplained is not reported yet.
        """
        tried: set[PairKey] = set()
        changed = True
        while changed:
            left, changed = [], False
            for row in _sweep(step):
                differences = list_differences(day, row)
                left += differences
                if row.pair not in tried:
                    tried.add(row.pair)
                    self._report.differences += (it for it in differences if final or not it.unexplained)
                    changed |= (final and self._accept) or not all(it.unexplained for it in differences)
        if final:
            self._report.left += len(left)
            self._report.unexplained += sum(it.unexplained for it in left)
        return bool(left)

    def _add(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self._report.differences.append(difference)
            self._report.left += 1


def _sweep(step: Callable[[PairKey | None], RepairStep]) -> Iterator[PairDifference]:
    """Repair from the first pair to the last. Yields what differed."""
    done = retry(partial(step, None), WAIT_TIMEOUT_SECONDS)
    yield from done.rows
    while done.last:
        done = retry(partial(step, done.last), WAIT_TIMEOUT_SECONDS)
        yield from done.rows
