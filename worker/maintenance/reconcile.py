"""`maintenance.reconcile`: whether counters, roll-up, ledger and books say the same, and how they come to do so again.

The ledger is right about the days that it has, the days are right about the counters, and the noted conversations
about their number. Every comparison is one statement, so what is being counted meanwhile makes no difference.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from worker.logs import get_logger
from worker.maintenance.patience import persist
from worker.store import (
    FIRST_PAIR,
    booked_by_day,
    count_pairs,
    counter_differences,
    day_differences,
    mend_counters,
    mend_day,
    next_pairs,
    recorded_by_day,
    require_sight,
    retained_days,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import date
    from decimal import Decimal

    from worker.maintenance.duty import Tell
    from worker.settings import Settings
    from worker.store import Differing, PairKey, Store

RECONCILE = "maintenance.reconcile"
# What one statement compares: so many pairs, or the pairs of so many rows.
CHUNK_PAIRS, CHUNK_ROWS = 5_000, 100_000
# How many pairs are locked at once for a repair, so that a batch of ingest waits for milliseconds.
MEND_PAIRS = 1_000
# A second repair, or one of beat's, takes turns with this one.
PATIENCE_SECONDS = 600.0
# What a task notes, among all that differs.
NOTED = 20

DAY_COLUMNS = (
    *("usage_count", "message_count", "success_count", "error_count", "input_tokens", "output_tokens"),
    *("total_tokens_used", "total_cost_usd", "response_time_total_ms", "response_time_samples"),
)
COUNTERS = (
    *("usage_count", "message_count", "success_count", "error_count", "total_tokens_used", "total_cost_usd"),
    *("response_time_total_ms", "response_time_samples", "avg_response_time_ms", "conversation_count"),
    "usage_daily.conversation_count",
)

log = get_logger("reconcile")


class Difference(NamedTuple):
    """A figure that is not what it must be: of a pair on a day, of a pair's counters, or of the books on a day."""

    user_id: str | None
    agent_id: str | None
    day: str | None
    column: str
    expected: int | str | None
    found: int | str | None


@dataclass(slots=True)
class ReconcileReport:
    """What a run found; filled while it goes on, so that whoever interrupts it can still read it."""

    checked: int = 0
    """Pairs whose counters were compared."""
    days: int = 0
    """Days of the ledger that were compared."""
    differences: list[Difference] = field(default_factory=list)
    left: int = 0
    """How many of the differences are still there."""
    complete: bool = False
    """Whether the time sufficed for all of it."""

    def as_dict(self) -> dict[str, Any]:
        """The figures, and some of the differences."""
        return {
            "checked": self.checked,
            "days": self.days,
            "different": len(self.differences),
            "left": self.left,
            "complete": self.complete,
            "differences": [difference._asdict() for difference in self.differences[:NOTED]],
        }


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
    budget: float | None = None,
    tell: Tell = lambda _done, _total: None,
    report: ReconcileReport | None = None,
) -> ReconcileReport:
    """Compare the days with the ledger, the counters with the days, and the books with the ledger.

    With `repair` the days get the sums of the ledger and the counters those of the days, while counting goes on. Ends
    early when `budget` seconds are spent.

    Raises:
        BusyError: another repair did not let this one have its turn.
        SettingsError: row-level security would hide rows from us.
        StoreUnavailableError: what was repaired until then stays so.
    """
    report = report or ReconcileReport()
    require_sight(store)
    run = _Run(store, report, repair=repair)
    days = scope.days(store)
    by_day: list[Callable[[], None]] = [partial(run.check_day, day) for day in days]
    if scope == Scope():
        by_day.append(partial(run.check_books, days, settings.accept_days))
    if budget is not None:
        # Where the time does not suffice for all of them, every day has its turn some night.
        random.shuffle(by_day)
    deadline = None if budget is None else time.monotonic() + budget
    # A repair gives the counters what the days have then.
    for done, step in enumerate(chain(by_day, run.ranges()) if repair else chain(run.ranges(), by_day)):
        if deadline is not None and time.monotonic() >= deadline:
            log.warning("the time did not suffice", budget=budget, **report.as_dict())
            return report
        tell(done, None)
        step()
    report.complete = True
    if report.left:
        log.error("figures differ", different=len(report.differences), left=report.left)
    return report


class _Run:
    """One run: what it compares goes into the report."""

    def __init__(self, store: Store, report: ReconcileReport, *, repair: bool) -> None:
        self._store = store
        self._report = report
        self._repair = repair

    def check_day(self, day: date) -> None:
        """Compare a day with the ledger."""
        name = partial(_named, DAY_COLUMNS, day)
        if self._repair:
            self._mend(partial(mend_day, self._store, RECONCILE, day, MEND_PAIRS), name)
        else:
            self._note(chain.from_iterable(map(name, day_differences(self._store, day))))
        self._report.days += 1

    def ranges(self) -> Iterator[Callable[[], None]]:
        """One step for every range of pairs."""
        first: PairKey | None = FIRST_PAIR
        while first is not None:
            end = next_pairs(self._store, first, CHUNK_PAIRS, CHUNK_ROWS)
            yield partial(self._check_counters, first, end)
            first = end

    def check_books(self, days: Sequence[date], accept_days: int) -> None:
        """Compare what was booked as applied with what the ledger recorded.

        An event may be recorded so many days after it happened, so the ledger must still have those days, too.
        """
        if not days or days[0] + timedelta(days=accept_days) >= days[-1]:
            return
        recorded: Counter[date] = Counter()
        for day in days:
            recorded.update(recorded_by_day(self._store, day))
        for booked in booked_by_day(self._store, days[0] + timedelta(days=accept_days + 1), days[-1]):
            pairs = ("applied", recorded[booked.day], booked.applied), ("accepted", booked.parts, booked.accepted)
            self._note(
                Difference(None, None, booked.day.isoformat(), column, int(expected), int(found))
                for column, expected, found in pairs
                if expected != found
            )

    def _check_counters(self, first: PairKey, end: PairKey | None) -> None:
        name = partial(_named, COUNTERS, None)
        if self._repair:
            self._mend(partial(mend_counters, self._store, RECONCILE, first, end, MEND_PAIRS), name)
        else:
            self._note(chain.from_iterable(map(name, counter_differences(self._store, first, end))))
        self._report.checked += count_pairs(self._store, first, end)

    def _mend(self, step: Callable[[], list[Differing]], name: Callable[[Differing], list[Difference]]) -> None:
        """Mend until nothing differs any more; what differs a second time cannot be mended."""
        tried: set[PairKey] = set()
        while found := persist(step, PATIENCE_SECONDS):
            fresh = [row for row in found if row.pair not in tried]
            if not fresh:
                self._report.left += sum(len(name(row)) for row in found)
                return
            tried.update(row.pair for row in fresh)
            self._report.differences += chain.from_iterable(map(name, fresh))

    def _note(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self._report.differences.append(difference)
            self._report.left += 1


def _named(columns: Sequence[str], day: date | None, row: Differing) -> list[Difference]:
    return [
        Difference(
            str(row.pair.user_id),
            str(row.pair.agent_id),
            None if day is None else day.isoformat(),
            column,
            _plain(expected),
            _plain(found),
        )
        for column, expected, found in zip(columns, row.expected, row.found, strict=True)
        if expected != found
    ]


def _plain(figure: Decimal | None) -> int | str | None:
    """As JSON has it: money as text, which keeps its decimals."""
    if figure is None:
        return None
    return int(figure) if figure == figure.to_integral_value() else str(figure)
