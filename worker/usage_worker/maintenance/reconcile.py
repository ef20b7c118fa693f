"""`maintenance.reconcile`: whether counters, roll-up, ledger and books say the same, and how they come to do so again.

The ledger is right about the days that it has, the days are right about the counters, and the noted conversations
about their number; what counters have beyond all of them is not taken away. Every comparison is one statement, so what
is being counted meanwhile makes no difference.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from usage_worker.errors import SettingsError
from usage_worker.logs import get_logger
from usage_worker.maintenance.differences import (
    COUNTERS,
    DAY_COLUMNS,
    Difference,
    ReconcileReport,
    named,
    without_explained,
)
from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store import (
    FIRST_PAIR,
    count_pairs,
    counter_differences,
    day_differences,
    intake_by_day,
    next_pairs,
    recorded_by_day,
    repair_counters,
    repair_day,
    require_rls_bypass,
    retained_days,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import date

    from usage_worker.maintenance.task_run import OnProgress
    from usage_worker.settings import Settings
    from usage_worker.store import PairDifference, PairKey, RepairedPairs, Store

RECONCILE = "maintenance.reconcile"
# What one statement compares: so many pairs, or the pairs of so many rows.
CHUNK_PAIRS, CHUNK_ROWS = 5_000, 100_000
# How many pairs are locked at once for a repair, so that a batch of ingest waits for milliseconds.
REPAIR_PAIRS = 1_000
# A second repair, or one of beat's, takes turns with this one.
WAIT_TIMEOUT_SECONDS = 600.0

log = get_logger("reconcile")


@dataclass(frozen=True, slots=True)
class Scope:
    """What to compare: the days of the ledger from one to another (None: all that it has)."""

    first: date | None = None
    last: date | None = None

    def days(self, store: Store) -> list[date]:
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
    budget: float | None = None,
    on_progress: OnProgress = lambda _done, _total: None,
    report: ReconcileReport | None = None,
) -> ReconcileReport:
    """Compare the days with the ledger, the counters with the days, and the books with the ledger.

    With `repair` the days get the sums of the ledger and the counters those of the days, while counting goes on. A
    counter is never lowered: what neither ledger nor days explain stays, unless `accept_unexplained`, a repair that
    needs all days, makes it opening balance. Ends early when `budget` seconds are spent.

    Raises:
        BusyError: another repair did not let this one have its turn.
        SettingsError: row-level security would hide rows from us; accepting was asked for some days only.
        StoreUnavailableError: what was repaired until then stays so.
    """
    if accept_unexplained and scope != Scope():
        # What a day left out explains would be counted again when that day is repaired.
        raise SettingsError("--accept-unexplained compares all days: leave out --from and --to")
    report = report or ReconcileReport()
    require_rls_bypass(store)
    run = _ReconcileRun(store, report, repair=repair or accept_unexplained, accept=accept_unexplained)
    try:
        report.complete = _take(
            run.steps(scope, settings.accept_days, shuffled=budget is not None), budget, on_progress
        )
    finally:
        run.finish()
    if not report.complete:
        log.warning("the time did not suffice", budget=budget, **report.as_dict())
    elif report.left:
        log.error("figures differ", different=len(report.differences), left=report.left, unexplained=report.unexplained)
    return report


def _take(steps: Iterable[Callable[[], None]], budget: float | None, on_progress: OnProgress) -> bool:
    """Run the steps in order. Returns whether the budget (seconds) sufficed for all of them."""
    deadline = None if budget is None else time.monotonic() + budget
    for done, step in enumerate(steps):
        if deadline is not None and time.monotonic() >= deadline:
            return False
        on_progress(done, None)
        step()
    return True


def run_reconcile(store: Store, settings: Settings) -> dict[str, Any]:
    """Compare counters, roll-up, ledger and intake totals."""
    return run_task(store, RECONCILE, partial(reconcile, store, settings, budget=settings.reconcile_budget))


class _ReconcileRun:
    """One run: what it compares goes into the report."""

    def __init__(self, store: Store, report: ReconcileReport, *, repair: bool, accept: bool) -> None:
        self._store = store
        self._report = report
        self._repair = repair
        self._accept = accept
        # Days on which something seemed unexplained as long as other days were not repaired.
        self._open_days: list[date] = []

    def steps(self, scope: Scope, accept_days: int, *, shuffled: bool) -> Iterable[Callable[[], None]]:
        """List the comparisons of the run in their order."""
        days = scope.days(self._store)
        by_day: list[Callable[[], None]] = [partial(self._check_day, day) for day in days]
        if scope == Scope():
            by_day.append(partial(self._check_books, days, accept_days))
        if shuffled:
            # Where the time does not suffice for all of them, every day has its turn some night.
            random.shuffle(by_day)
        # A repair gives the counters what the days have then.
        return chain(by_day, self._close_days(), self._ranges()) if self._repair else chain(self._ranges(), by_day)

    def finish(self) -> None:
        """Withdraw the mark of counters that a day explains: it may have been compared later."""
        if not self._repair:
            self._report.differences = without_explained(self._report.differences)
            self._report.unexplained = sum(it.unexplained for it in self._report.differences)

    def _check_day(self, day: date) -> None:
        """Compare a day with the ledger."""
        name = partial(named, DAY_COLUMNS, day)
        if not self._repair:
            self._note(chain.from_iterable(map(name, day_differences(self._store, day))))
        elif self._repair_all(
            partial(repair_day, self._store, RECONCILE, day, REPAIR_PAIRS, accept=False), name, final=False
        ):
            self._open_days.append(day)
        self._report.days += 1

    def _close_days(self) -> Iterator[Callable[[], None]]:
        """One step for every day that something is left of, once no day lacks anything."""
        for day in self._open_days:
            yield partial(self._close_day, day)

    def _close_day(self, day: date) -> None:
        step = partial(repair_day, self._store, RECONCILE, day, REPAIR_PAIRS, accept=self._accept)
        self._repair_all(step, partial(named, DAY_COLUMNS, day))

    def _ranges(self) -> Iterator[Callable[[], None]]:
        """One step for every range of pairs."""
        first: PairKey | None = FIRST_PAIR
        while first is not None:
            end = next_pairs(self._store, first, CHUNK_PAIRS, CHUNK_ROWS)
            yield partial(self._check_counters, first, end)
            first = end

    def _check_books(self, days: Sequence[date], accept_days: int) -> None:
        """Compare what was booked as applied with what the ledger recorded.

        An event may be recorded so many days after it happened, so the ledger must still have those days, too.
        """
        if not days or days[0] + timedelta(days=accept_days) >= days[-1]:
            return
        recorded: Counter[date] = Counter()
        for day in days:
            recorded.update(recorded_by_day(self._store, day))
        for intake in intake_by_day(self._store, days[0] + timedelta(days=accept_days + 1), days[-1]):
            pairs = ("applied", recorded[intake.day], intake.applied), ("accepted", intake.parts, intake.accepted)
            self._note(
                Difference(None, None, intake.day.isoformat(), column, int(expected), int(found))
                for column, expected, found in pairs
                if expected != found
            )

    def _check_counters(self, first: PairKey, end: PairKey | None) -> None:
        name = partial(named, COUNTERS, None)
        if self._repair:
            self._repair_all(
                partial(repair_counters, self._store, RECONCILE, first, end, REPAIR_PAIRS, accept=self._accept), name
            )
        else:
            self._note(chain.from_iterable(map(name, counter_differences(self._store, first, end))))
        self._report.checked += count_pairs(self._store, first, end)

    def _repair_all(
        self,
        step: Callable[[PairKey | None], RepairedPairs],
        name: Callable[[PairDifference], list[Difference]],
        *,
        final: bool = True,
    ) -> bool:
        """Repair until no pair differs for the first time. Returns whether anything is left.

        Unless this is final, what seems unexplained is not reported yet.
        """
        tried: set[PairKey] = set()
        changed = True
        while changed:
            left, changed = [], False
            for row in _swept(step):
                differences = name(row)
                left += differences
                if row.pair not in tried:
                    tried.add(row.pair)
                    self._report.differences += (it for it in differences if final or not it.unexplained)
                    changed |= (final and self._accept) or not all(it.unexplained for it in differences)
        if final:
            self._report.left += len(left)
            self._report.unexplained += sum(it.unexplained for it in left)
        return bool(left)

    def _note(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self._report.differences.append(difference)
            self._report.left += 1


def _swept(step: Callable[[PairKey | None], RepairedPairs]) -> Iterator[PairDifference]:
    """Yield what differs, from the first pair to the last."""
    mended = retry(partial(step, None), WAIT_TIMEOUT_SECONDS)
    yield from mended.rows
    while mended.last:
        mended = retry(partial(step, mended.last), WAIT_TIMEOUT_SECONDS)
        yield from mended.rows
