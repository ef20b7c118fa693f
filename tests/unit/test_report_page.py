"""The page of a report as text: what is escaped, what the tables say, and what a browser may load and run."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from tests.usage_reports import HOSTILE_NAMES, NOTHING, report_of, usual_report
from usage_worker import report as room
from usage_worker.report.page import render_page
from usage_worker.wording import (
    exact_dollars,
    exact_milliseconds,
    percentage,
    short,
    short_dollars,
    short_milliseconds,
    shown_name,
)

if TYPE_CHECKING:
    from usage_worker.report.usage_report import UsageReport

ECHARTS = Path(room.__file__).parent / "echarts"
# Decimal, and not 2 ** 20.
MEGABYTE = 1_000_000


class Page(HTMLParser):
    """The rows of each section's table, headings first, the scripts, and every tag with its attributes."""

    def __init__(self, report: UsageReport) -> None:
        super().__init__()
        self.text = render_page(report)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str, list[list[str]]] = defaultdict(list)
        self.scripts: list[str] = []
        self.shown = ""
        self._section = ""
        self._open = ""
        self.feed(self.text)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
        elif tag == "tr":
            self.rows[self._section].append([])
        elif tag in ("th", "td"):
            self.rows[self._section][-1].append("")
        elif tag == "script":
            self.scripts.append("")

    @override
    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    @override
    def handle_data(self, data: str) -> None:
        if self._open in ("th", "td"):
            self.rows[self._section][-1][-1] += data
        elif self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.shown += data

    @property
    def charts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.scripts[0])
        return found


def test_vendored_files_are_those_that_were_released() -> None:
    lines = (ECHARTS / "SHA256SUMS").read_text("utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    files = {path.name: path for path in ECHARTS.iterdir()}
    assert set(files) - set(sums) == {"README.md", "SHA256SUMS"}
    assert {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in sums} == sums


def test_tables_have_the_exact_figures() -> None:
    report = usual_report()
    page = Page(report)
    days = [(day.day.isoformat(), day.totals) for day in report.days]
    every = [*days, ("All days", report.total)]
    assert page.rows["uses"][1:] == [
        [name, f"{it.usage_count:,}", f"{it.message_count:,}", f"{it.users:,}"] for name, it in every
    ]
    assert [row[1:] for row in page.rows["tokens"][1:]] == [
        [f"{it:,}" for it in (day.total_tokens_used, day.input_tokens, day.output_tokens, day.cached_input_tokens)]
        for _, day in every
    ]
    assert [[Decimal(row[1].strip("$").replace(",", "")), row[2]] for row in page.rows["cost"][1:]] == [
        [it.total_cost_usd, f"{it.uses_without_cost:,}"] for _, it in every
    ]
    assert [row[:3] for row in page.rows["errors"][1:]] == [
        [name, f"{it.error_count:,}", f"{it.success_count:,}"] for name, it in every
    ]
    assert [row[:2] for row in page.rows["agents"][1:]] == [
        [it.name, f"{it.totals.usage_count:,}"] for it in report.agents
    ]
    assert page.rows["models"][-1][0] == "unknown"


def test_charts_draw_the_same_figures() -> None:
    report = usual_report()
    charts = {chart["name"]: chart["option"] for chart in Page(report).charts}
    assert charts["uses"]["series"][0]["data"] == [day.totals.usage_count for day in report.days]
    tokens = [series["data"] for series in charts["tokens"]["series"]]
    assert [sum(parts) for parts in zip(*tokens, strict=True)] == [day.totals.total_tokens_used for day in report.days]
    assert charts["agents"]["series"][0]["data"] == [agent.totals.usage_count for agent in report.agents]


def test_unknown_is_not_shown_as_zero() -> None:
    page = Page(report_of([replace(NOTHING, usage_count=30, success_count=30, uses_without_cost=30, users=None)]))
    assert page.rows["cost"][1:] == [["2026-02-01", "unknown", "30"], ["All days", "unknown", "30"]]
    assert page.rows["latency"][1][1:] == ["unknown"] * 4
    assert page.rows["uses"][1][3] == "unknown"
    assert "30 uses without a known cost" in page.shown
    assert "$0" not in page.text.replace(page.scripts[1], "")
    charts = {chart["name"]: chart["option"]["series"] for chart in page.charts}
    assert charts["cost"][0]["data"] == charts["latency"][0]["data"] == [None]
    # Of a user's days that the ledger has dropped, the number of known costs is unknown, too.
    priced = report_of([replace(NOTHING, usage_count=30, total_cost_usd=Decimal(3))])
    page = Page(replace(priced, total=replace(priced.total, uses_without_cost=None)))
    assert page.rows["cost"][2] == ["All days", "$3.00", "unknown"]
    assert "without a known cost" not in page.shown.replace("Uses without a known cost", "")


def test_point_between_unknown_days_has_a_symbol() -> None:
    known = replace(NOTHING, p50_ms=5.0, p95_ms=6.0, p99_ms=7.0)
    series = {it["name"]: it for it in Page(report_of([NOTHING, known, NOTHING, known, known])).charts}["latency"]
    assert series["option"]["series"][0]["data"] == [None, {"value": 5.0, "symbolSize": 6}, None, 5.0, 5.0]


def test_names_are_text() -> None:
    page, harmless = (Page(report_of([NOTHING], names=names)) for names in (HOSTILE_NAMES, ["a"] * len(HOSTILE_NAMES)))
    assert page.tags[:-3] == [
        (tag, found | {"content": meta["content"]} if "content" in found else found)
        for (tag, found), (_, meta) in zip(harmless.tags[:-3], page.tags, strict=False)
    ]
    assert len(page.scripts) == 3
    names = [row[0] for row in page.rows["agents"][1:]]
    assert names == [shown_name(name) for name in HOSTILE_NAMES]
    # The script takes them from the table.
    assert page.scripts[0] == harmless.scripts[0]
    assert names[0] == HOSTILE_NAMES[0]
    assert names[2] == r"\u202egnirts desrever\u202c"
    assert names[3:5] == list(HOSTILE_NAMES[3:5])
    assert names[-2:] == ["(no name)", "unknown"]
    page.text.encode()


def test_browser_may_run_our_scripts_and_load_nothing() -> None:
    page = Page(usual_report())
    (policy,) = [it["content"] or "" for tag, it in page.tags if tag == "meta" and "http-equiv" in it]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in page.scripts[1:]
    ]
    addresses = [value for _, it in page.tags for name, value in it.items() if name in ("src", "href", "action")]
    assert addresses == ["data:,"]
    assert all(chart["option"]["tooltip"]["renderMode"] == "richText" for chart in page.charts)


@pytest.mark.parametrize("days", [0, 1, 400])
def test_any_number_of_days(days: int) -> None:
    report = report_of([day.totals for day in usual_report(days).days], names=[("\N{GRINNING FACE}" * 255)] * 20)
    page = Page(report)
    assert len(page.rows["uses"]) == (days + 2 if days else 0)
    assert len(page.text.encode()) <= MEGABYTE


def test_report_on_one_user_says_so() -> None:
    page = Page(report_of([NOTHING], user="<b>42</b>"))
    assert "Only user <b>42</b>." in page.shown
    assert "users" not in page.rows


def test_last_day_that_goes_on_is_named() -> None:
    assert "The last day is not over." in Page(usual_report(30)).shown  # 2 March, in Berlin
    assert "The last day is not over." not in Page(usual_report(29)).shown


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "unknown"), (0, "0"), (9_999, "9,999"), (12_345, "12.3 k"), (999_999, "1 M"), (10**16, "10,000 T")],
)
def test_short(number: int | None, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("cost", "text", "headline"),
    [
        (None, "unknown", "unknown"),
        ("0", "$0.00", "$0.00"),
        ("1E-10", "$0.0000000001", "$0.0000000001"),
        ("0.0012345", "$0.0012345", "$0.00123"),
        ("0.99999", "$0.99999", "$1.00"),
        ("12.3400000000", "$12.34", "$12.34"),
        ("1000000000000000.0000000001", "$1,000,000,000,000,000.0000000001", "$1,000 T"),
        ("1E+15", "$1,000,000,000,000,000.00", "$1,000 T"),
    ],
)
def test_dollars(cost: str | None, text: str, headline: str) -> None:
    value = None if cost is None else Decimal(cost)
    assert (exact_dollars(value), short_dollars(value)) == (text, headline)


@pytest.mark.parametrize(
    ("duration", "text", "headline"),
    [
        (None, "unknown", "unknown"),
        (0, "0", "0 ms"),
        (12.34, "12.3", "12.3 ms"),
        (999.7, "999.7", "1 s"),
        (99_000, "99,000", "99 s"),
        (120_000, "120,000", "2 min"),
        (85_346_944, "85,346,944", "23.7 h"),
    ],
)
def test_milliseconds(duration: float | None, text: str, headline: str) -> None:
    assert (exact_milliseconds(duration), short_milliseconds(duration)) == (text, headline)


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(0, 0, "unknown"), (0, 9, "0.00 %"), (1, 10**6, "< 0.01 %"), (1, 3, "33.33 %")]
)
def test_percentage(part: int, whole: int, text: str) -> None:
    assert percentage(part, whole) == text
