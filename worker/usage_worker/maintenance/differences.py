"""What a comparison found: which figures differ, by how much, and which of them nothing explains."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from usage_worker.store import PairDifference

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


class Difference(NamedTuple):
    """A figure that is not what it must be: of a pair on a day, of a pair's counters, or of the books on a day."""

    user_id: str | None
    agent_id: str | None
    day: str | None
    column: str
    expected: int | str | None
    found: int | str | None
    unexplained: bool = False
    """Whether nothing says why it is so high; no repair lowers it."""


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
    unexplained: int = 0
    """How many of these nothing explains."""
    complete: bool = False
    """Whether the time sufficed for all of it."""

    def as_dict(self) -> dict[str, Any]:
        """The figures, and some of the differences."""
        return {
            "checked": self.checked,
            "days": self.days,
            "different": len(self.differences),
            "left": self.left,
            "unexplained": self.unexplained,
            "complete": self.complete,
            "differences": [difference._asdict() for difference in self.differences[:NOTED]],
        }


def named(columns: Sequence[str], day: date | None, row: PairDifference) -> list[Difference]:
    """Name every figure of a pair that differs; `day` is None for counters."""
    return [
        Difference(
            str(row.pair.user_id),
            str(row.pair.agent_id),
            None if day is None else day.isoformat(),
            column,
            _plain(expected),
            _plain(found),
            bool(unexplained),
        )
        for column, expected, found, unexplained in zip(columns, row.expected, row.found, row.unexplained, strict=True)
        if expected != found
    ]


def without_explained(differences: list[Difference]) -> list[Difference]:
    """Return the same differences; a counter is explained by what the days of its pair lack."""
    lacking: defaultdict[tuple[str | None, str | None, str], Decimal] = defaultdict(Decimal)
    for it in differences:
        if it.day:
            lacking[it.user_id, it.agent_id, it.column] += max(_gap(it), Decimal())
    return [
        it._replace(unexplained=False)
        if it.unexplained and not it.day and -_gap(it) <= lacking[it.user_id, it.agent_id, it.column]
        else it
        for it in differences
    ]


def _gap(it: Difference) -> Decimal:
    gap = Decimal(it.expected or 0) - Decimal(it.found or 0)
    return Decimal() if gap.is_nan() else gap


def _plain(figure: Decimal | None) -> int | str | None:
    """As JSON has it: money as text, which keeps its decimals."""
    if figure is None:
        return None
    return int(figure) if figure == figure.to_integral_value() else str(figure)
