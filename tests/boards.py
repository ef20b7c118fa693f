"""The Grafana boards, alert rules and runbook of the repository, and Grafana's variables and macros."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
GRAFANA = ROOT / "monitoring" / "grafana"
ALERTS = (PROMETHEUS / "alerts.yml").read_text("utf-8")
ALERT_NAMES = re.findall(r"^ +- alert: (\w+)$", ALERTS, re.MULTILINE)
# `$__timeFrom()`, `$__rate_interval`, `${variable}` or `${variable:format}`.
_EXPRESSION = re.compile(r"\$(__\w+(?:\(\))?)|\$\{(\w+)(?::(\w+))?\}")


@dataclass(frozen=True)
class Board:
    """A board by its file."""

    name: str
    json: dict[str, Any]

    @property
    def panels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json["panels"]
        return found

    @property
    def variables(self) -> dict[str, dict[str, Any]]:
        return {variable["name"]: variable for variable in self.json["templating"]["list"]}

    def queries(self, field: str) -> list[tuple[str, str]]:
        """Return the title of the panel and the text of each query: `expr` of Prometheus, `rawSql` of PostgreSQL."""
        return [(panel["title"], target[field]) for panel in self.panels for target in panel["targets"]]


OPERATIONS, USAGE = BOARDS = [
    Board(name, json.loads((GRAFANA / "boards" / f"{name}.json").read_text("utf-8")))
    for name in ("operations", "usage")
]


def named(text: str) -> set[str]:
    """Return the macros and variables of a query."""
    return {macro or variable for macro, variable, _ in _EXPRESSION.findall(text)}


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """Return the query that Grafana sends, with values of macros and variables.

    Source: https://grafana.com/docs/grafana/latest/dashboards/variables/variable-syntax/
    """

    def value(found: re.Match[str]) -> str:
        macro, variable, form = found.groups()
        if form == "sqlstring":
            quoted = values[variable].replace("'", "''")
            return f"'{quoted}'"
        return values[macro or variable]

    return _EXPRESSION.sub(value, text)


def metrics_of(expression: str) -> set[str]:
    """Return the names of our metrics in PromQL, without what Prometheus adds to a histogram's name."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\busage_\w+", expression)}
