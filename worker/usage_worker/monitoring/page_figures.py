"""The figures of the page of usage."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from usage_worker.report.usage_report import DayTotals, NamedTotals, Totals, UsageReport
from usage_worker.store.usage_summary import names_of, usage_summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date
    from uuid import UUID

    from usage_worker.store import Store
    from usage_worker.store.usage_summary import Days

# As many as a page names of agents, users and models.
MOST_NAMED = 20
_NO_USE: dict[str, Any] = dict.fromkeys(Totals.__dataclass_fields__, 0) | dict.fromkeys(
    ("total_cost_usd", "avg_response_time_ms", "p50_ms", "p95_ms", "p99_ms"), None
)


def page_figures(store: Store, days: Days, user_id: UUID | None = None, user: str | None = None) -> UsageReport:
    """Return the figures of a page, all of the same moment; `user` is what the page calls the user.

    Raises:
        DataRefusedError: as by `usage_summary`.
    """
    rows = usage_summary(store, days, ["", "day", "agent", "user", "model"], user_id)
    by_day = {row["period"].date(): row for row in rows["day"]}
    return UsageReport(
        generated_at=store.now(),
        time_zone=days.zone,
        user=user,
        total=_totals(rows[""][0] if rows[""] else None),
        days=[DayTotals(day=day, totals=_totals(by_day.get(day))) for day in each_day(days)],
        agents=_named(store, "agent", rows["agent"]),
        users=_named(store, "user", rows["user"]),
        models=[NamedTotals(name=row["model"] or None, totals=_totals(row)) for row in _most_used(rows["model"])],
    )


def each_day(days: Days) -> Iterator[date]:
    """Yield the days, ascending."""
    for number in range((days.last - days.first).days + 1):
        yield days.first + timedelta(days=number)


def _named(store: Store, kind: Literal["agent", "user"], rows: Sequence[dict[str, Any]]) -> list[NamedTotals]:
    most_used, column = _most_used(rows), f"{kind}_id"
    with store.connection() as connection:
        names = names_of(connection, kind, [row[column] for row in most_used])
    return [NamedTotals(name=names.get(row[column]) or str(row[column]), totals=_totals(row)) for row in most_used]


def _most_used(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -row["usage_count"])[:MOST_NAMED]


def _totals(row: dict[str, Any] | None) -> Totals:
    if row is None:
        return Totals(**_NO_USE)
    figures: dict[str, Any] = {name: row[name] for name in _NO_USE if name in row}
    figures |= {name: int(value) for name, value in figures.items() if "tokens" in name}
    return Totals(**figures, uses_without_cost=row["usage_count"] - (row["cost_samples"] or 0))
