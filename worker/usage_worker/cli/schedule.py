"""`usage-worker schedule`: the schedule of beat, with the last run of each task."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from usage_worker.cli.output import Form, echo, print_json, print_rows
from usage_worker.errors import UsageError
from usage_worker.service.schedule import schedule_entries
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import last_runs
from usage_worker.wording import figures_text, moment, short_seconds

if TYPE_CHECKING:
    from usage_worker.service.schedule import ScheduleEntry
    from usage_worker.settings import Settings
    from usage_worker.store.task_runs import TaskRun

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
HEADINGS = ("name", "task", "when", "next run", "last run", "took", "figures")
FORMS: dict[str, Form] = {"next run": moment, "last run": moment, "took": short_seconds}


def schedule(as_json: AsJson = False) -> None:
    """Show the schedule: task, when, next run, and the last run with its figures if the database answers."""
    settings = load_settings()
    entries, runs = schedule_entries(settings), _last_runs(settings)
    now = datetime.now(ZoneInfo(settings.timezone))
    if as_json:
        lines = [_line(entry, now, runs.get(entry.task)) for entry in entries]
        print_json({"timezone": settings.timezone, "schedule": lines})
        return
    rows = [_cells(_line(entry, now, runs.get(entry.task))) for entry in entries]
    print_rows(HEADINGS, rows, forms=FORMS, spare=("task",))


def _last_runs(settings: Settings) -> dict[str, TaskRun]:
    if not settings.database_url:
        return {}
    try:
        with Store.of(settings) as store:
            return last_runs(store)
    except UsageError as error:
        echo(f"no last runs: {error}", err=True)
        return {}


def _line(entry: ScheduleEntry, now: datetime, run: TaskRun | None) -> dict[str, Any]:
    next_run = entry.next_run(now, run.finished_at.astimezone(now.tzinfo) if run else None)
    return {
        "name": entry.name,
        "task": entry.task,
        "when": entry.description,
        "next_run": next_run and next_run.replace(microsecond=0),
        "last_run": run and run.finished_at.astimezone(now.tzinfo).replace(microsecond=0),
        "seconds": run and run.seconds,
        "figures": run and run.report,
    }


def _cells(line: dict[str, Any]) -> list[object]:
    return [*list(line.values())[:-1], figures_text(line["figures"] or {})]
