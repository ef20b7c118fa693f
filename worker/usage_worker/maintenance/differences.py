"""The report of a comparison: which figures differ, by how much, and which of them are unexplained."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import date

    from usage_worker.store.reconcile import PairDifference

# Number of differences that the record of a run contains.
RECORDED_DIFFERENCES = 20


class Difference(NamedTuple):
    """A figure that is not as expected: of a pair on a day, of a pair's counters, or of the intake totals of a day."""

    user_id: str | None
    agent_id: str | None
    day: str | None
    column: str
    expected: int | str | None
    found: int | str | None
    unexplained: bool = False
    """Whether nothing explains why it is too high; no repair lowers it."""


@dataclass(slots=True)
class ReconcileReport:
    """What a run found; filled as it goes on, so that it can be read after an interruption."""

    checked: int = 0
    """Number of pairs whose counters were compared."""
    days: int = 0
    """Number of days of the ledger that were compared."""
    hours: int = 0
    """Number of hours that differed from the ledger, which the task `analytics.hours` rolls up again."""
    differences: list[Difference] = field(default_factory=list)
    left: int = 0
    """Number of differences that remain."""
    unexplained: int = 0
    """Number of these that are unexplained."""
    left_elsewhere: int = 0
    """At least so many more differences were left by earlier runs; set where this one did not compare everything."""
    complete: bool = False
    """Whether the time budget sufficed for everything."""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures and some of the differences."""
        return {
            "checked": self.checked,
            "days": self.days,
            "hours": self.hours,
            "different": len(self.differences),
            "left": self.left,
            "unexplained": self.unexplained,
            "left_elsewhere": self.left_elsewhere,
            "complete": self.complete,
            "differences": [difference._asdict() for difference in self.differences[:RECORDED_DIFFERENCES]],
        }


def list_differences(day: date | None, row: PairDifference) -> list[Difference]:
    """List every figure of a pair that differs; `day` is None for counters."""
    return [
        Difference(
            str(row.pair.user_id),
            str(row.pair.agent_id),
            None if day is None else day.isoformat(),
            column,
            _json_value(expected),
            _json_value(row.found[column]),
            bool(row.unexplained[column]),
        )
        for column, expected in row.expected.items()
        if expected != row.found[column]
    ]


def without_explained(differences: list[Difference]) -> list[Difference]:
    """Return the differences without the mark of counters that exceed their days by no more than those are too low."""
    missing: defaultdict[tuple[str | None, str | None, str], Decimal] = defaultdict(Decimal)
    for it in differences:
        if it.day:
            missing[it.user_id, it.agent_id, it.column] += max(_gap(it), Decimal())
    return [
        it._replace(unexplained=False)
        if it.unexplained and not it.day and -_gap(it) <= missing[it.user_id, it.agent_id, it.column]
        else it
        for it in differences
    ]


def _gap(it: Difference) -> Decimal:
    gap = Decimal(it.expected or 0) - Decimal(it.found or 0)
    return Decimal() if gap.is_nan() else gap


def _json_value(figure: Decimal | None) -> int | str | None:
    """Return the figure for JSON; costs become text, which keeps their decimals."""
    if figure is None:
        return None
    return int(figure) if figure == figure.to_integral_value() else str(figure)
