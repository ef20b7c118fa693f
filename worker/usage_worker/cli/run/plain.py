"""The command of a periodic task that has no options of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from usage_worker.cli.output import EXIT_INTERRUPTED, echo, print_json
from usage_worker.cli.progress import shown
from usage_worker.errors import BusyError
from usage_worker.local.stopping import leave_on_signal
from usage_worker.settings import load_settings
from usage_worker.store import Store
from usage_worker.wording import figures_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.maintenance import PeriodicTask

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def plain_command(task: PeriodicTask) -> Callable[..., None]:
    """Return the command that runs a task with its settings."""

    def command(as_json: AsJson = False) -> None:
        settings = load_settings()
        figures: dict[str, Any] | None = None
        with leave_on_signal(), Store.of(settings) as store, shown(task.name):
            figures = task.run(store, settings)
        if figures == {"busy": True}:
            raise BusyError(task.name)
        if as_json:
            print_json(figures or {"interrupted": True})
        elif figures:
            echo(figures_text(figures))
        if figures is None:
            raise typer.Exit(EXIT_INTERRUPTED)

    command.__doc__ = task.run.__doc__
    return command
