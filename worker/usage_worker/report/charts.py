"""The charts of a report: what ECharts draws, and the table with the same figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usage_worker.report.tables import Table
from usage_worker.wording import (
    exact,
    exact_dollars,
    exact_milliseconds,
    percentage,
    shown_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from usage_worker.report.usage_report import NamedTotals, Totals, UsageReport

    Cell = Callable[[Totals], str]
    Value = Callable[[Totals], float | None]

# Pixels: of a chart by day, of one bar with a name, and of the axis below the bars.
DAYS_HEIGHT = 260
BAR_HEIGHT = 26
AXIS_HEIGHT = 44
NAME_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and its table.

    Attributes:
        name: an id within the page.
        unit: of its axis of values: count, dollars or milliseconds.
        colours: names of the page's colours, one for each series.
        option: what ECharts draws, except what the script takes from the table: days, names and the tooltip.
        height: in pixels.
    """

    name: str
    title: str
    unit: str
    colours: Sequence[str]
    option: dict[str, Any]
    table: Table
    height: int = DAYS_HEIGHT


@dataclass(frozen=True, slots=True)
class _Series:
    name: str
    colour: str
    value: Value
    style: dict[str, Any]


_BAR: dict[str, Any] = {"type": "bar", "barMaxWidth": 40}
_STACKED = _BAR | {"stack": "tokens"}


def charts_of(report: UsageReport) -> list[Chart]:
    """Return the charts by day, then those of agents, users and models; a report on one user has none of users."""
    named = [("agents", "Agents", report.agents), ("models", "Models", report.models)]
    if report.user is None:
        named.insert(1, ("users", "Users", report.users))
    return [*_charts_by_day(report), *(_chart_by_name(*names) for names in named)]


def _charts_by_day(report: UsageReport) -> list[Chart]:
    uses = [_Series("Uses", "blue", lambda totals: totals.usage_count, _BAR)]
    errors = [_Series("Errors", "red", lambda totals: totals.error_count, _BAR)]
    cost = [_Series("Cost", "green", lambda totals: _number(totals.total_cost_usd), _BAR)]
    return [
        _chart_by_day(report, "uses", "Uses by day", "count", uses, _USES),
        _chart_by_day(report, "tokens", "Tokens by day", "count", _token_series(report), _TOKENS),
        _chart_by_day(report, "cost", "Cost by day", "dollars", cost, _COST),
        _chart_by_day(report, "latency", "Response time by day", "milliseconds", _LATENCY_SERIES, _LATENCY),
        _chart_by_day(report, "errors", "Errors by day", "count", errors, _ERRORS),
    ]


def _number(cost: Decimal | None) -> float | None:
    return None if cost is None else float(cost)


def _token_series(report: UsageReport) -> list[_Series]:
    """Return input and output, and the rest where uses have told only their total."""
    series = [
        _Series("Input", "blue", lambda totals: totals.input_tokens, _STACKED),
        _Series("Output", "orange", lambda totals: totals.output_tokens, _STACKED),
    ]
    if any(_other_tokens(day.totals) for day in report.days):
        series.append(_Series("Neither known", "grey", _other_tokens, _STACKED))
    return series


def _other_tokens(totals: Totals) -> int:
    return max(0, totals.total_tokens_used - totals.input_tokens - totals.output_tokens)


def _line(style: str) -> dict[str, Any]:
    return {"type": "line", "showAllSymbol": True, "symbolSize": 0, "lineStyle": {"type": style, "width": 2}}


def _rounded(duration: float | None) -> float | None:
    return None if duration is None else round(duration, 1)


_LATENCY_SERIES = [
    _Series("p50", "blue", lambda totals: _rounded(totals.p50_ms), _line("solid")),
    _Series("p95", "orange", lambda totals: _rounded(totals.p95_ms), _line("dashed")),
    _Series("p99", "red", lambda totals: _rounded(totals.p99_ms), _line("dotted")),
]
_USES: dict[str, Cell] = {
    "Uses": lambda totals: exact(totals.usage_count),
    "Messages": lambda totals: exact(totals.message_count),
    "Users": lambda totals: exact(totals.users),
}
_TOKENS: dict[str, Cell] = {
    "Tokens": lambda totals: exact(totals.total_tokens_used),
    "Input": lambda totals: exact(totals.input_tokens),
    "Output": lambda totals: exact(totals.output_tokens),
    "Input from caches": lambda totals: exact(totals.cached_input_tokens),
}
_COST: dict[str, Cell] = {
    "Cost": lambda totals: exact_dollars(totals.total_cost_usd),
    "Uses without a known cost": lambda totals: exact(totals.uses_without_cost),
}
_LATENCY: dict[str, Cell] = {
    "p50 (ms)": lambda totals: exact_milliseconds(totals.p50_ms),
    "p95 (ms)": lambda totals: exact_milliseconds(totals.p95_ms),
    "p99 (ms)": lambda totals: exact_milliseconds(totals.p99_ms),
    "Average (ms)": lambda totals: exact_milliseconds(totals.avg_response_time_ms),
}
_ERRORS: dict[str, Cell] = {
    "Errors": lambda totals: exact(totals.error_count),
    "Successes": lambda totals: exact(totals.success_count),
    "Error rate": lambda totals: percentage(totals.error_count, totals.usage_count),
}
_NAMED: dict[str, Cell] = {
    "Uses": _USES["Uses"],
    "Tokens": _TOKENS["Tokens"],
    **_COST,
    "Error rate": _ERRORS["Error rate"],
    "p95 (ms)": _LATENCY["p95 (ms)"],
}


def _chart_by_day(
    report: UsageReport, name: str, title: str, unit: str, series: Sequence[_Series], cells: dict[str, Cell]
) -> Chart:
    days = [day.day.isoformat() for day in report.days]
    rows = [[day, *(cell(it.totals) for cell in cells.values())] for day, it in zip(days, report.days, strict=True)]
    option = _option(title, series, [day.totals for day in report.days]) | {
        # Below the 0 of the other axis.
        "xAxis": {"type": "category", "axisLabel": {"margin": 14}},
        "yAxis": _value_axis(unit),
    }
    total = ["All days", *(cell(report.total) for cell in cells.values())]
    table = Table(["Day", *cells], rows, total)
    return Chart(name, title, unit, [it.colour for it in series], option, table)


def _chart_by_name(name: str, title: str, named: Sequence[NamedTotals]) -> Chart:
    names = [shown_name(it.name) for it in named]
    rows = [[name, *(cell(it.totals) for cell in _NAMED.values())] for name, it in zip(names, named, strict=True)]
    uses = [_Series("Uses", "blue", lambda totals: totals.usage_count, _BAR)]
    label = {"width": NAME_WIDTH, "overflow": "truncate"}
    option = _option(f"Uses of {name}", uses, [it.totals for it in named]) | {
        "xAxis": _value_axis("count"),
        "yAxis": {"type": "category", "inverse": True, "axisLabel": label},
    }
    table = Table([title.removesuffix("s"), *_NAMED], rows)
    return Chart(
        name, f"{title} with most uses", "count", ["blue"], option, table, len(rows) * BAR_HEIGHT + AXIS_HEIGHT
    )


def _option(title: str, series: Sequence[_Series], totals: Sequence[Totals]) -> dict[str, Any]:
    many = len(series) > 1
    return {
        "animation": False,
        "aria": {"enabled": True, "label": {"description": f"{title}. The table below has the same figures."}},
        # Right of it is half a date, which would be cut off otherwise.
        "grid": {"left": 4, "right": 36, "top": 36 if many else 12, "bottom": 4},
        # Rich text, since the other mode takes names for HTML.
        "tooltip": {"trigger": "axis", "renderMode": "richText", "confine": True, "axisPointer": {"type": "shadow"}},
        "series": [it.style | {"name": it.name, "data": _data(it, totals)} for it in series],
    } | ({"legend": {"top": 0, "left": 0}} if many else {})


def _data(series: _Series, totals: Sequence[Totals]) -> list[Any]:
    values = [series.value(it) for it in totals]
    return _points(values) if series.style["type"] == "line" else values


def _points(values: Sequence[float | None]) -> list[Any]:
    """Return the values, with a symbol for one between two unknown ones, of which a line would show nothing."""
    around = [None, *values, None]
    return [
        {"value": value, "symbolSize": 6} if value is not None and before is None and after is None else value
        for before, value, after in zip(around, values, around[2:], strict=False)
    ]


def _value_axis(unit: str) -> dict[str, Any]:
    axis: dict[str, Any] = {"type": "value", "min": 0, "splitNumber": 4}
    return axis | {"minInterval": 1} if unit == "count" else axis
