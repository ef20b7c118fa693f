"""`usage-worker run refresh`: refresh the analytics and roll hours up now, without Celery."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from usage_worker.cli.output import echo
from usage_worker.cli.progress import shown
from usage_worker.cli.run.ending import finish
from usage_worker.local.stopping import leave_on_signal
from usage_worker.maintenance.analytics import REFRESH
from usage_worker.maintenance.analytics import refresh as refresh_analytics
from usage_worker.maintenance.hours import HOURS, HoursReport, roll_up_hours
from usage_worker.maintenance.task_run import run_task
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.wording import counted

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def refresh(as_json: AsJson = False) -> None:
    """Refresh the analytics if anything was counted or a UTC day has begun, and roll up the hours that events touched.

    Readers do not wait. Ctrl-C cancels it in the database: the analytics stay as they were, and so do the hours of the
    day at which it was.
    """
    settings = load_settings()
    figures: dict[str, dict[str, Any]] = {}
    hours = HoursReport()
    with leave_on_signal() as stop, Store.of(settings) as store:
        with shown("refreshing the analytics"):
            figures["analytics"] = run_task(store, REFRESH, lambda: refresh_analytics(store))
        with shown("rolling up hours") as on_progress:
            figures["hours"] = run_task(store, HOURS, lambda: roll_up_hours(store, on_progress, hours), hours)
    busy = [task for name, task in (("analytics", REFRESH), ("hours", HOURS)) if "busy" in figures.get(name, ())]
    done = figures | ({"busy": True} if busy else {})
    show = partial(_show, figures)
    finish(", ".join(busy), done, show, as_json=as_json, interrupted=stop.is_set, figures=figures)


def _show(figures: dict[str, dict[str, Any]]) -> None:
    for name, done in figures.items():
        if done != {"busy": True}:
            echo(_LINES[name](done))


def _analytics_line(figures: dict[str, Any]) -> str:
    if figures["refreshed"]:
        return f"analytics refreshed in {figures['seconds']:.1f} s"
    return f"nothing has changed since the analytics of {figures['refreshed_at']}"


def _hours_line(figures: dict[str, Any]) -> str:
    return f"{counted(figures['hours'], 'hour')} rolled up in {figures['seconds']:.1f} s"


_LINES = {"analytics": _analytics_line, "hours": _hours_line}
