"""The page of a report in Debian's Chromium: it draws, loads nothing, runs no name, and fits a phone."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from tests.integration.commands import Cli
from tests.integration.database import run
from tests.system.browser import CHARTS, CONTRAST, READABLE, SHAPES, WRONG
from tests.usage_reports import HOSTILE_NAMES, NOTHING, report_of, usual_report
from usage_worker.report.page import render_page
from usage_worker.store.connection import Store
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tools.screenshot.chromium import Tab
    from usage_worker.report.usage_report import UsageReport

    Open = Callable[[UsageReport], None]

# Where a bar is, and its uses as the table has them.
BAR = """(() => {{
  const box = document.querySelector('#{0} .chart');
  const {{ x, y, width }} = box.getBoundingClientRect();
  const across = echarts.getInstanceByDom(box).convertToPixel({{ yAxisIndex: 0 }}, {1});
  return [x + width / 2, y + across, document.querySelectorAll('#{0} tbody tr')[{1}].cells[1].textContent];
}})()"""
# Uses of seven users and three agents.
CALLS = """
    SELECT track_agent_usage((%s::uuid[])[1 + n %% 7], (%s::uuid[])[1 + n %% 3], n %% 4 > 0, n, n * 0.0000000123, n)
      FROM generate_series(1, 200) AS n"""
TEXTS = "[...document.querySelectorAll('#{} svg text')].map(it => it.textContent)"


@pytest.fixture
def show(tab: Tab, tmp_path: Path) -> Open:
    """Open the page of a report from a file."""

    def _show(report: UsageReport) -> None:
        page = tmp_path / "report.html"
        page.write_text(render_page(report), "utf-8")
        tab.open(page.as_uri())
        tab.next_frame()

    return _show


def check_quiet(tab: Tab) -> None:
    """Assert that the browser has asked for the page only, and has no error, message or violation to tell."""
    asked = [
        event["params"]["request"]["url"] for event in tab.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url.rpartition("/")[2] for url in asked if not url.startswith("data:")] == ["report.html"]
    assert [event for event in tab.events if event["method"] in WRONG] == []


@pytest.mark.parametrize("days", [1, 30, 400])
def test_every_chart_is_drawn_without_a_request(tab: Tab, show: Open, days: int) -> None:
    show(usual_report(days))
    shapes = tab.run(SHAPES)
    assert len(shapes) == CHARTS
    assert all(shapes)
    # ECharts may draw neighbours in one path; a bar has one of its own.
    assert shapes[0] == days
    labels = tab.run("[...document.querySelectorAll('.chart')].map(it => [it.role, it.ariaLabel])")
    assert labels[0] == ["img", "Uses by day. The table below has the same figures."]
    assert tab.run("document.querySelectorAll('details[open]').length") == 0
    check_quiet(tab)


def test_no_use_and_extreme_costs_are_drawn(tab: Tab, show: Open) -> None:
    much = [replace(NOTHING, total_cost_usd=Decimal(cost)) for cost in ("1E+15", "1E-10")]
    for days in ([], [NOTHING], [NOTHING] * 3, much[:1], much[1:], much):
        show(report_of(days))
        assert tab.run("document.querySelectorAll('.chart svg').length") == (CHARTS if days else 3)
        check_quiet(tab)


def test_tables_add_up_to_the_totals(tab: Tab, show: Open) -> None:
    report = usual_report()
    show(report)
    columns = """['uses', 'tokens', 'cost', 'errors'].map(id => [...document.querySelectorAll(`#${id} tr`)].slice(1)
        .map(row => row.cells[1].textContent))"""
    found = [[Decimal(cell.strip("$").replace(",", "")) for cell in column] for column in tab.run(columns)]
    total = report.total
    assert [column[-1] for column in found] == [
        total.usage_count,
        total.total_tokens_used,
        total.total_cost_usd,
        total.error_count,
    ]
    assert [sum(column[:-1]) for column in found] == [column[-1] for column in found]


def test_page_of_the_command_has_the_totals_of_the_ledger(tab: Tab, tmp_path: Path, database: str) -> None:
    """Hours that are rolled up, and events after that, of which the roll-up does not know yet."""
    cli = Cli(tmp_path, DATABASE_URL=database)
    population = Population.of(7, 3)
    with Store(database) as store:
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
    run(database, CALLS, population.users, population.agents)
    assert cli.run("run", "refresh").returncode == 0
    run(database, CALLS, population.users, population.agents)
    assert cli.run("report", "--html", "report.html").returncode == 0
    tab.open((tmp_path / "report.html").as_uri())
    tab.next_frame()
    total = (
        "['uses', 'tokens', 'cost', 'errors'].map(id => document.querySelector(`#${id} tfoot tr`).cells[1].textContent)"
    )
    found = [Decimal(cell.strip("$").replace(",", "")) for cell in tab.run(total)]
    ledger = "SELECT count(*), sum(tokens), sum(cost_usd), count(*) FILTER (WHERE NOT success) FROM usage_events"
    assert [tuple(found)] == run(database, ledger)
    check_quiet(tab)


def test_colours_follow_the_system_and_are_readable(tab: Tab, show: Open) -> None:
    show(usual_report())
    tab.run("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    backgrounds = []
    for scheme in ("light", "dark"):
        tab.set_scheme(scheme)  # the page is open
        tab.next_frame()
        texts, contrast = tab.run(CONTRAST)
        assert texts > 300
        assert contrast >= READABLE
        assert all(tab.run(SHAPES))
        backgrounds.append(tab.run("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds[0] != backgrounds[1]
    check_quiet(tab)


@pytest.mark.parametrize("names", [("Release notes",) * 20, HOSTILE_NAMES])
def test_phone_needs_no_scrolling_sideways(tab: Tab, show: Open, names: tuple[str | None, ...]) -> None:
    tab.set_width(390, phone=True)
    show(report_of([day.totals for day in usual_report(40).days], names=names))
    tab.run("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    assert tab.run("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    widths = tab.run("[...document.querySelectorAll('.chart svg')].map(it => it.getBoundingClientRect().right)")
    assert max(widths) <= 390


def test_names_run_nothing(tab: Tab, show: Open) -> None:
    show(report_of([NOTHING], names=HOSTILE_NAMES))
    assert tab.run("typeof hacked") == "undefined"
    assert tab.run("document.querySelectorAll('img, script:not(#charts, #charts ~ script)').length") == 0
    names = tab.run("[...document.querySelectorAll('#agents tbody th')].map(it => it.textContent)")
    assert names[0] == HOSTILE_NAMES[0]
    for place, name in enumerate(names):
        assert tooltip(tab, "agents", place)[0] == name[:60] + "…" * (len(name) > 60)
    assert tab.run("typeof hacked") == "undefined"
    check_quiet(tab)


def tooltip(tab: Tab, chart: str, place: int) -> list[str]:
    """Move the mouse over a bar with a name, and return the lines that appear."""
    tab.run(f"document.querySelector('#{chart}').scrollIntoView()")
    x, y, uses = tab.run(BAR.format(chart, place))
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    while f"Uses: {uses}" not in (lines := tab.run(TEXTS.format(chart))):
        tab.next_frame()
    return [line.replace("\u2060", "") for line in lines[lines.index(f"Uses: {uses}") - 1 :]]


def test_tooltip_has_the_exact_figures(tab: Tab, show: Open) -> None:
    report = usual_report()
    show(report)
    agent = report.agents[2]
    name, uses, *_ = tooltip(tab, "agents", 2)
    assert (name, uses) == (agent.name, f"Uses: {agent.totals.usage_count:,}")


def test_tables_are_visible_without_scripts(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_page(usual_report()), "utf-8")
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(page.as_uri())
        tables = "[...document.querySelectorAll('table')].filter(it => it.checkVisibility()).length"
        assert tab.run(tables) == CHARTS
        assert tab.run("[...document.querySelectorAll('.chart')].filter(it => it.checkVisibility()).length") == 0
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


def test_print_has_light_charts_and_every_table(tab: Tab, show: Open) -> None:
    tab.set_scheme("dark")
    show(usual_report())
    colours = "getComputedStyle(document.documentElement).getPropertyValue('--page')"
    dark = tab.run(colours)
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run("document.querySelectorAll('details:not([open])').length") == 0
    assert tab.run(colours) != dark
    assert max(tab.run("[...document.querySelectorAll('.chart svg')].map(it => it.clientWidth)")) <= 680
    assert all(tab.run(SHAPES))
    tab.run("dispatchEvent(new Event('afterprint'))")
    assert tab.run("document.querySelectorAll('details[open]').length") == 0
    assert tab.run(colours) == dark
