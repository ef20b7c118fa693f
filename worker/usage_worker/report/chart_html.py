"""Charts as HTML and as JSON for the script `page.js`; both serve any page that has its style and its scripts."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

from usage_worker.report.tables import table_html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.report.charts import Chart


def chart_html(chart: Chart) -> str:
    """Return a section with the chart and its table, which is open until the script has drawn the chart."""
    heading = f'<section id="{chart.name}"><h2>{escape(chart.title)}</h2>\n'
    if not chart.table.rows:
        return f"{heading}<p>There are none.</p></section>\n"
    return (
        f'{heading}<div class="chart" style="height:{chart.height}px" hidden></div>\n'
        f"<details open><summary>Table: {escape(chart.title)}</summary>\n"
        f"{table_html(chart.table, chart.title)}</details></section>\n"
    )


def charts_json(charts: Sequence[Chart]) -> str:
    """Return what the script draws as JSON; it is ASCII, and no name in it ends the element."""
    drawn = [
        {"name": chart.name, "unit": chart.unit, "colours": chart.colours, "option": chart.option}
        for chart in charts
        if chart.table.rows
    ]
    return json.dumps(drawn, separators=(",", ":")).replace("<", "\\u003c")
