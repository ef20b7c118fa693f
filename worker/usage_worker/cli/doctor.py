"""`usage-worker doctor`: every check of the status, and what else the settings, versions, rights and servers tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from usage_worker.cli.output import EXIT_PROBLEM, echo, print_json, print_rows
from usage_worker.monitoring.doctor import diagnose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.cli.output import Cell
    from usage_worker.monitoring.doctor import Diagnosis

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "unknown": "dim"}


def doctor(as_json: AsJson = False) -> None:
    """Check settings, versions, rights and servers, each with what was found and a remedy; exit with 1 if one fails."""
    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.as_dict())
    else:
        print_rows(("state", "check", "found", "remedy"), _rows(diagnosis))
        counts = ", ".join(f"{number} {state}" for state, number in diagnosis.counts.items())
        echo(f"{len(diagnosis.checks)} checks: {counts}")
    raise typer.Exit(EXIT_PROBLEM if diagnosis.failed else 0)


def _rows(diagnosis: Diagnosis) -> Iterator[tuple[Cell, ...]]:
    for check in diagnosis.checks:
        yield Text(check.state, COLOURS[check.state]), check.name, check.reason, check.remedy
