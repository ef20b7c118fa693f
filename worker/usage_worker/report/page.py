"""The page of a report: one file of HTML that loads nothing."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from usage_worker.report.assets import asset, csp_hash
from usage_worker.report.chart_html import chart_html, charts_json
from usage_worker.report.charts import charts_of
from usage_worker.wording import percentage, short, short_dollars, short_milliseconds, shown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.report.usage_report import Totals, UsageReport


def render_page(report: UsageReport) -> str:
    """Return the report as a page of HTML, which needs no other file and asks no server for anything.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: the report's time zone does not exist.
    """
    charts = charts_of(report)
    title = f"Usage, {_period(report)}"
    scripts = [asset("echarts/echarts.common.min.js"), asset("page.js")]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_policy(scripts))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{asset("page.css")}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>
<p>{escape(_origin(report))}</p></header>
<main>
{_headlines_html(report.total)}
{"".join(map(chart_html, charts))}
</main>
<footer><p>Unknown is what nobody reported, and is not 0. A percentile below 20 response times is unknown.
Charts: Apache ECharts 6.1.0, Apache License 2.0.</p></footer>
<script type="application/json" id="charts">{charts_json(charts)}</script>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(map(csp_hash, scripts))
    # ECharts sets the style of its elements.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _period(report: UsageReport) -> str:
    if not report.days:
        return "no days"
    first, last = report.days[0].day, report.days[-1].day
    return f"{first}" if first == last else f"{first} to {last}"


def _origin(report: UsageReport) -> str:
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
    cards = (
        f'<div><dt>{escape(name)}</dt><dd class="figure">{escape(figure)}</dd><dd>{escape(note)}</dd></div>'
        for name, figure, note in headlines
    )
    return f'<dl class="headlines">{"".join(cards)}</dl>'
