"""The partitioned tables, and the days that the names of their partitions stand for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from usage_worker.settings import Settings

LEDGER, HOURLY = "usage_events", "agent_usage_hourly"
_FORMATS = {"day": "%Y%m%d", "month": "%Y%m"}


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table partitioned by UTC day or month, its retention in days, and the query that creates a partition."""

    table: str
    unit: Literal["day", "month"]
    retention_days: int
    ensure: str

    def name(self, first: date) -> str:
        """Return the name of the partition that begins on a day."""
        return f"{self.table}_{first.strftime(_FORMATS[self.unit])}"

    def begin(self, name: str) -> date | None:
        """Return the first day of a partition by its name, or None for a name of another form."""
        try:
            first = datetime.strptime(name.removeprefix(f"{self.table}_"), _FORMATS[self.unit]).date()  # noqa: DTZ007
        except ValueError:
            return None
        return first if self.name(first) == name else None

    def periods(self, start: date) -> Iterator[date]:
        """Yield the first day of the partition that contains `start` and of each one after it, without end."""
        first = start if self.unit == "day" else start.replace(day=1)
        while True:
            yield first
            first = self._next(first)

    def wanted(self, today: date, ahead_days: int) -> Iterator[date]:
        """Yield the first days of the partitions that contain today and the `ahead_days` days after it."""
        for first in self.periods(today):
            if first > today + timedelta(days=ahead_days):
                return
            yield first

    def ahead_days(self, today: date, attached: Collection[str]) -> int:
        """Return the number of days after today that partitions cover without a gap; -1 if today has none."""
        for first in self.periods(today):
            if self.name(first) not in attached:
                return max((first - today).days, 0) - 1
        raise AssertionError("unreachable")

    def is_expired(self, name: str, today: date) -> bool:
        """Return whether every row that fits the partition is older than the retention."""
        first = self.begin(name)
        return first is not None and self._next(first) <= today - timedelta(days=self.retention_days)

    def _next(self, first: date) -> date:
        if self.unit == "day":
            return first + timedelta(days=1)
        return (first + timedelta(days=31)).replace(day=1)


def partitioned_tables(settings: Settings) -> tuple[Partitioned, ...]:
    """Return every partitioned table."""
    return (
        Partitioned(LEDGER, "day", settings.retention_days, "ensure_day"),
        Partitioned("user_agent_history", "month", settings.history_retention_days, "ensure_month"),
        Partitioned(HOURLY, "month", hourly_days(settings), "ensure_hours_month"),
    )


def hourly_days(settings: Settings) -> int:
    """Return how many days hours are kept: at least as long as the ledger, whose days may be rolled up again."""
    return max(settings.hourly_retention_days, settings.retention_days)
