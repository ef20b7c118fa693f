"""`usage-worker run partitions`: create partitions ahead and drop those past their retention, without Celery."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from usage_worker.cli.output import echo
from usage_worker.cli.progress import shown
from usage_worker.cli.run.ending import finish
from usage_worker.local.stopping import leave_on_signal
from usage_worker.maintenance.partitions import MANAGE_PARTITIONS, PartitionsReport, manage_partitions
from usage_worker.maintenance.task_run import run_task
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def partitions(as_json: AsJson = False) -> None:
    """Create partitions ahead and drop those past their retention; exit with 1 if too few are ahead or a step failed.

    Beat does it every hour. Ctrl-C stops it without harm; what was done until then is printed.
    """
    settings = load_settings()
    report, done = PartitionsReport(), dict[str, Any]()
    with leave_on_signal() as stop, Store.of(settings) as store, shown("partitions") as on_progress:
        work = partial(manage_partitions, store, settings, on_progress, report)
        done = run_task(store, MANAGE_PARTITIONS, work, report)
    figures, problem = done or report.as_dict(), bool(report.failed or report.short)
    show = partial(_show, report)
    finish(MANAGE_PARTITIONS, done, show, as_json=as_json, interrupted=stop.is_set, figures=figures, problem=problem)


def _show(report: PartitionsReport) -> None:
    made, dropped = len(report.created), len(report.dropped)
    deleted = f"{report.deleted_entries:,} old entries and {report.deleted_keys:,} old keys deleted"
    if report.deleted_corrections:
        deleted += f", {report.deleted_corrections:,} old corrections"
    lines = [f"{made} made, {dropped} dropped, {deleted}"]
    lines += [f"failed: {name}: {reason}" for name, reason in report.failed.items()]
    for table, days in report.ahead_days.items():
        lines.append(f"{table}: {days} days ahead" + (", too few" if table in report.short else ""))
    for line in lines:
        echo(line)
