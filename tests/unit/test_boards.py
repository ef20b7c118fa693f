"""The boards are complete and fit the metrics that exist; the runbook has a part for each alert and check."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.boards import ALERT_NAMES, ALERTS, BOARDS, OPERATIONS, ROOT, Board, metrics_of, named
from usage_worker.monitoring.status import CHECKS

if TYPE_CHECKING:
    from collections.abc import Iterator

METRICS_PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
METRICS = metrics_of(METRICS_PAGE)
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
BOARDS_PAGE = (ROOT / "docs" / "boards.md").read_text("utf-8")
# Grafana's ids of units.
UNITS = {unit for unit in vars(units).values() if isinstance(unit, str)}
MACROS = {"__rate_interval", "__timeFrom()", "__timeTo()"}
GRID_COLUMNS = 24
each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


def anchors(document: str, level: str) -> list[str]:
    """Return what GitHub calls the headings of this level."""
    headings = re.findall(rf"^{level} (.*)$", document, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@each_board
def test_each_panel_has_a_description_a_unit_and_a_data_source(board: Board) -> None:
    sources = {f"${{{name}}}": it["query"] for name, it in board.variables.items() if it["type"] == "datasource"}
    assert len(sources) == 1
    for panel in board.panels:
        assert panel["title"]
        assert panel["description"].endswith(".")
        units = [panel["fieldConfig"]["defaults"]["unit"]]
        units += [
            it["value"] for o in panel["fieldConfig"]["overrides"] for it in o["properties"] if it["id"] == "unit"
        ]
        assert set(units) <= UNITS
        assert sources[panel["datasource"]["uid"]] == panel["datasource"]["type"]
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@each_board
def test_grafana_knows_each_field(board: Board) -> None:
    plugins.register_default_plugins()
    known = json.loads(json.dumps(Dashboard.from_json(board.json), cls=JSONEncoder))
    assert sorted(lost(board.json, known)) == []


def lost(ours: Any, known: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of what Grafana's types do not have, or have with another value."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            yield from lost(value, known.get(name), f"{path}/{name}")
    elif isinstance(ours, list):
        for place, value in enumerate(ours):
            yield from lost(value, known[place], f"{path}/{place}")
    elif ours != known:
        yield path


def test_ids_are_unique() -> None:
    assert len({board.json["uid"] for board in BOARDS}) == len(BOARDS)
    for board in BOARDS:
        assert len({panel["id"] for panel in board.panels}) == len(board.panels)
        assert board.json["schemaVersion"] >= 39


@each_board
def test_panels_do_not_overlap(board: Board) -> None:
    places = [panel["gridPos"] for panel in board.panels]
    assert all(place["x"] + place["w"] <= GRID_COLUMNS for place in places)
    assert not any(overlap(one, other) for one, other in combinations(places, 2))


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


@each_board
def test_queries_use_existing_variables_and_few_macros(board: Board) -> None:
    texts: list[Any] = [board.json["panels"], board.json["templating"]]
    assert named(str(texts)) <= MACROS | board.variables.keys()


def test_boards_and_alerts_use_metrics_that_exist() -> None:
    used = set[str]().union(*(metrics_of(query) for _, query in OPERATIONS.queries("expr")), metrics_of(ALERTS))
    assert len(used) > 20
    assert used - METRICS == set()


def test_each_alert_links_to_a_symptom() -> None:
    links = re.findall(r"runbook_url: \"?docs/runbook\.md#([^\"\n]+)", ALERTS)
    symptoms = {*anchors(RUNBOOK, "##"), "{{ $labels.check }}"}
    assert len(links) == len(ALERT_NAMES) > 10
    assert set(links) - symptoms == set()
    assert [name for name in ALERT_NAMES if name not in RUNBOOK and "UsageCheck" not in name] == []


def test_page_lists_each_alert_with_its_severity() -> None:
    severities = re.findall(r"- alert: (\w+)$.*?severity: (\w+)", ALERTS, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^\| (Usage\w+) \| (\w+) \|", BOARDS_PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(severities)


def test_page_of_metrics_names_each_alert_beside_a_metric_that_it_watches() -> None:
    rows = re.findall(r"^\| `(usage_\w+)`.*\|(.*) \|$", METRICS_PAGE, re.MULTILINE)
    named = {
        (metric.removesuffix("_bucket"), name) for metric, worry in rows for name in re.findall(r"\[(\w+)\]", worry)
    }
    expressions = re.findall(r"- alert: (\w+)\n +expr: (.*)", ALERTS)
    watched = {(metric, name) for name, expression in expressions for metric in metrics_of(expression)}
    assert named - watched == set()
    # The others watch metrics of Prometheus alone.
    assert {name for _, name in named} == {name for _, name in watched}


def test_runbook_has_each_check_once() -> None:
    assert sorted(anchors(RUNBOOK, "###")) == sorted(CHECKS)


def test_each_symptom_says_what_to_see_and_do() -> None:
    symptoms = RUNBOOK.split("\n## ")[1:]
    assert len(symptoms) > 15
    for symptom in symptoms:
        marks = re.findall(r"^\*\*(You see|It means|Do|Over when)\*\*", symptom, re.MULTILINE)
        assert marks == ["You see", "It means", "Do", "Over when"], symptom
