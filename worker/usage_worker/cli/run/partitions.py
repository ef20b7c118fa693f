"""`usage-worker run partitions`: create partitions ahead and drop those past their retention, without Celery."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from usage_worker.cli.output import EXIT_INTERRUPTED, echo, print_json
from usage_worker.cli.progress import shown
from usage_worker.local.stopping import leave_on_signal
from usage_worker.maintenance import MANAGE_PARTITIONS, PartitionsReport, manage_partitions, run_task
from usage_worker.service.resources import Resources
from usage_worker.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def partitions(as_json: AsJson = False) -> None:
    """Create partitions ahead and drop those past their retention; exit with 1 if too few are ahead or a step failed.

    Beat does it every hour. Ctrl-C stops it without harm; what was done until then is printed.
    """
    settings = load_settings()
    report = PartitionsReport()
    figures: dict[str, Any] | None = None
    with leave_on_signal(), Resources(settings) as resources, shown("partitions") as on_progress:
        store = resources.store
        figures = run_task(
            store, MANAGE_PARTITIONS, lambda: manage_partitions(store, settings, on_progress, report), report
        )
    if as_json:
        print_json(figures or report.as_dict() | {"interrupted": True})
    else:
        if figures and "busy" in figures:
            echo("another process is at work on the partitions")
        if figures != {"busy": True}:
            for line in _lines(report):
                echo(line)
    raise typer.Exit(EXIT_INTERRUPTED if figures is None else int(bool(report.failed or report.short)))


def _lines(report: PartitionsReport) -> list[str]:
    made, dropped = len(report.created), len(report.dropped)
    deleted = f"{report.deleted_entries:,} old entries and {report.deleted_keys:,} old keys deleted"
    lines = [f"{made} made, {dropped} dropped, {deleted}"]
    lines += [f"failed: {name}: {reason}" for name, reason in report.failed.items()]
    for table, days in report.ahead_days.items():
        lines.append(f"{table}: {days} days ahead" + (", too few" if table in report.short else ""))
    return lines
