"""Reports of usage: the rows of a table, and the figures of a page."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, Literal

from usage_worker.errors import DataRefusedError, ParameterError
from usage_worker.report.usage_report import DayTotals, NamedTotals, Totals, UsageReport
from usage_worker.store.usage_summary import Days, local_day, names_of, usage_summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from usage_worker.store.connection import Store
    from usage_worker.store.usage_summary import Grouping

By = Literal["day", "hour", "week", "month", "agent", "user", "model", "provider"]
"""What each row of a table is about."""
FIGURES = (
    "usage_count",
    "message_count",
    "total_tokens_used",
    "total_cost_usd",
    "success_rate_percent",
    "avg_response_time_ms",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "users",
)
DEFAULT_DAYS = 7
# A page shows each day.
MOST_DAYS = 3_660
# As many as a page names of agents, users and models.
MOST_NAMED = 20
_UNKNOWN_WITHOUT_USES = ("avg_response_time_ms", "p50_ms", "p95_ms", "p99_ms")
# Nothing costs nothing, with the decimals of a known cost.
_NO_USE: dict[str, Any] = (
    dict.fromkeys(Totals.__dataclass_fields__, 0)
    | dict.fromkeys(_UNKNOWN_WITHOUT_USES)
    | {"total_cost_usd": Decimal("0E-10")}
)


def report_days(store: Store, zone: str, count: int | None, first: date | None, last: date | None) -> Days:
    """Return the days of a report: `count` days up to the last one (today unless given), or those from `first` on.

    Raises:
        ParameterError: both are given, or the days are too many or none.
    """
    if count is not None and first is not None:
        raise ParameterError("days", "leave it out, or leave out the first day")
    end = last or local_day(store, zone)
    begin = first or date.fromordinal(max(end.toordinal() - (count or DEFAULT_DAYS) + 1, 1))
    if begin > end:
        raise ParameterError("from", f"{begin} is after the last day, {end}; give an earlier one, or a later last day")
    if (end - begin).days >= MOST_DAYS:
        oldest = end - timedelta(days=MOST_DAYS - 1)
        raise ParameterError("from", f"at most {MOST_DAYS:,} days; give {oldest} or later")
    return Days(begin, end, zone)


def table_rows(store: Store, days: Days, by: By, user_id: UUID | None = None) -> list[dict[str, Any]]:
    """Return a row with `FIGURES` for each period, ascending, days also without uses; or for each name, by uses.

    Raises:
        ParameterError: the database knows too little of the first days.
    """
    found = _summary(store, days, [by], user_id)[by]
    if by == "day":
        return [{"day": day, **_figures(totals)} for day, totals in _each_day(days, found)]
    if by in ("hour", "week", "month"):
        return [
            {by: row["period"] if by == "hour" else row["period"].date(), **_figures(_totals(row))} for row in found
        ]
    return [
        {**({f"{by}_id": id_} if id_ else {}), by: name, **_figures(_totals(row))}
        for id_, name, row in _named(store, by, _by_use(found))
    ]


def page_report(store: Store, days: Days, user_id: UUID | None = None, user: str | None = None) -> UsageReport:
    """Return the figures of a page, all of the same moment; `user` is what the page calls the user.

    Raises:
        ParameterError: the database knows too little of the first days.
    """
    rows = _summary(store, days, ["", "day", "agent", "user", "model"], user_id)
    return UsageReport(
        generated_at=store.now() - timedelta(seconds=store.data_age() or 0.0),
        time_zone=days.zone,
        user=user,
        total=_totals(rows[""][0] if rows[""] else None),
        days=[DayTotals(day=day, totals=totals) for day, totals in _each_day(days, rows["day"])],
        agents=_most_used(store, "agent", rows["agent"]),
        users=_most_used(store, "user", rows["user"]),
        models=_most_used(store, "model", rows["model"]),
    )


def _summary(
    store: Store, days: Days, groupings: Sequence[Grouping], user_id: UUID | None
) -> dict[Grouping, list[dict[str, Any]]]:
    try:
        return usage_summary(store, days, groupings, user_id)
    except DataRefusedError as error:
        _, ours, reason = error.detail.partition("usage_summary: ")
        if not ours:
            raise
        raise ParameterError("from", f"{reason}; older ones are known by whole UTC days") from error


def _each_day(days: Days, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[date, Totals]]:
    """Yield every day with its totals, ascending, also those without a row."""
    by_day = {row["period"].date(): row for row in rows}
    for number in range((days.last - days.first).days + 1):
        day = days.first + timedelta(days=number)
        yield day, _totals(by_day.get(day))


def _most_used(store: Store, by: By, rows: Sequence[dict[str, Any]]) -> list[NamedTotals]:
    """Return the totals of the most used ones; those of an agent or a user without a name under its id."""
    named = _named(store, by, _by_use(rows)[:MOST_NAMED])
    return [NamedTotals(name=name or (str(id_) if id_ else None), totals=_totals(row)) for id_, name, row in named]


def _by_use(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, the most used first."""
    return sorted(rows, key=lambda row: -row["usage_count"])


def _named(
    store: Store, by: By, rows: Sequence[dict[str, Any]]
) -> list[tuple[UUID | None, str | None, dict[str, Any]]]:
    """Return each row behind its id, which only agents and users have, and its name."""
    if by not in ("agent", "user"):
        return [(None, row[by] or None, row) for row in rows]
    ids = [row[f"{by}_id"] for row in rows]
    with store.connection() as connection:
        names = names_of(connection, by, ids)
    return [(id_, names.get(id_), row) for id_, row in zip(ids, rows, strict=True)]


def _totals(row: dict[str, Any] | None) -> Totals:
    if row is None:
        return Totals(**_NO_USE)
    figures: dict[str, Any] = {name: row[name] for name in _NO_USE if name in row}
    figures |= {name: int(value) for name, value in figures.items() if "tokens" in name}
    # Of a user's days that the ledger has dropped, it is unknown how many uses have a cost.
    known = row["cost_samples"]
    return Totals(**figures, uses_without_cost=None if known is None else row["usage_count"] - known)


def _figures(totals: Totals) -> dict[str, Any]:
    """Return the figures of a row, the percentiles rounded to two decimals."""
    figures: dict[str, Any] = {name: getattr(totals, name, None) for name in FIGURES}
    figures |= {name: round(figures[name], 2) for name in ("p50_ms", "p95_ms", "p99_ms") if figures[name] is not None}
    if totals.usage_count:
        rate = Decimal(100 * totals.success_count) / totals.usage_count
        figures["success_rate_percent"] = rate.quantize(Decimal("0.01"), ROUND_HALF_UP)
    return figures
