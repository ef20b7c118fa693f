"""The page of a report: one file of HTML that loads nothing."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from usage_worker.report.assets import asset
from usage_worker.report.chart_html import chart_html, charts_json
from usage_worker.report.charts import charts_of
from usage_worker.report.document import content_policy, document_html
from usage_worker.wording import percentage, short, short_dollars, short_milliseconds, shown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.report.usage_report import Totals, UsageReport


def render_page(report: UsageReport) -> str:
    """Return the report as a page of HTML, which needs no other file and asks no server for anything.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: the report's time zone does not exist.
    """
    title, scripts = title_of(report), chart_scripts()
    body = f"<header><h1>{escape(title)}</h1>\n<p>{escape(origin_of(report))}</p></header>\n{report_html(report)}"
    return document_html(title, asset("page.css"), content_policy(scripts), body, scripts)


def chart_scripts() -> list[str]:
    """Return the scripts that draw the charts of `report_html`."""
    return [asset("echarts/echarts.common.min.js"), asset("page.js")]


def report_html(report: UsageReport) -> str:
    """Return the totals, the charts with their tables, the notes, and what the scripts draw."""
    charts = charts_of(report)
    return f"""<main>
{_headlines_html(report.total)}
{"".join(map(chart_html, charts))}
</main>
<footer><p>Unknown is what nobody reported, and is not 0. A percentile below 20 response times is unknown.
Charts: Apache ECharts 6.1.0, Apache License 2.0.</p></footer>
<script type="application/json" id="charts">{charts_json(charts)}</script>"""


def title_of(report: UsageReport) -> str:
    """Return what the page is called: the days."""
    return f"Usage, {_period(report)}"


def _period(report: UsageReport) -> str:
    if not report.days:
        return "no days"
    first, last = report.days[0].day, report.days[-1].day
    return f"{first}" if first == last else f"{first} to {last}"


def origin_of(report: UsageReport) -> str:
    """Say whose figures these are, of when, and whether the last day goes on."""
    read_at = report.generated_at.astimezone(ZoneInfo(report.time_zone))
    user = "" if report.user is None else f"Only user {shown_name(report.user)}. "
    goes_on = report.days and report.days[-1].day >= read_at.date()
    unfinished = " The last day is not over." if goes_on else ""
    return f"{user}Days in {report.time_zone}. Figures of {read_at:%Y-%m-%d %H:%M}.{unfinished}"


def _headlines_html(total: Totals) -> str:
    without_cost = f"{short(total.uses_without_cost)} uses without a known cost" if total.uses_without_cost else ""
    headlines = [
        ("Uses", short(total.usage_count), f"{short(total.message_count)} messages"),
        ("Tokens", short(total.total_tokens_used), f"{short(total.input_tokens)} in, {short(total.output_tokens)} out"),
        ("Cost", short_dollars(total.total_cost_usd), without_cost),
        ("Users", short(total.users), ""),
        ("Error rate", percentage(total.error_count, total.usage_count), f"{short(total.error_count)} errors"),
        ("Response time, p95", short_milliseconds(total.p95_ms), f"p50 {short_milliseconds(total.p50_ms)}"),
    ]
    return headlines_html(headlines)


def headlines_html(headlines: Sequence[tuple[str, str, str]]) -> str:
    """Return figures in a row, each with its name above and a note below."""
    cards = (
        f'<div><dt>{escape(name)}</dt><dd class="figure">{escape(figure)}</dd><dd>{escape(note)}</dd></div>'
        for name, figure, note in headlines
    )
    return f'<dl class="headlines">{"".join(cards)}</dl>'
