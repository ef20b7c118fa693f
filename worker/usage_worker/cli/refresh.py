"""`usage-worker refresh`: refresh the analytics now, without Celery."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from usage_worker.cli.output import EXIT_INTERRUPTED, echo, print_json
from usage_worker.cli.progress import shown
from usage_worker.local.stopping import leave_on_signal
from usage_worker.maintenance import REFRESH, run_task
from usage_worker.maintenance import refresh as refresh_analytics
from usage_worker.service.resources import Resources
from usage_worker.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def refresh(as_json: AsJson = False) -> None:
    """Refresh the analytics if anything was counted since the last refresh or a UTC day has begun.

    Readers do not wait. Ctrl-C cancels it in the database, and the figures stay as they were.
    """
    settings = load_settings()
    figures: dict[str, Any] | None = None
    with leave_on_signal(), Resources(settings) as resources, shown("refreshing the analytics"):
        figures = run_task(resources.store, REFRESH, lambda: refresh_analytics(resources.store))
    if figures is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        print_json(figures)
    else:
        echo(_line(figures))


def _line(figures: dict[str, Any]) -> str:
    if "busy" in figures:
        return "another process is refreshing the analytics"
    if figures["refreshed"]:
        return f"analytics refreshed in {figures['seconds']:.1f} s"
    return f"nothing has changed since the analytics of {figures['refreshed_at']}"
