"""The command of a periodic task that has no options of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from usage_worker.cli.output import echo
from usage_worker.cli.progress import shown
from usage_worker.cli.run.ending import finish
from usage_worker.local.stopping import leave_on_signal
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.wording import figures_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.maintenance.registry import PeriodicTask

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def plain_command(task: PeriodicTask) -> Callable[..., None]:
    """Return the command that runs a task with its settings."""

    def command(as_json: AsJson = False) -> None:
        settings = load_settings()
        done = dict[str, Any]()
        with leave_on_signal() as stop, Store.of(settings) as store, shown(task.name):
            done = task.run(store, settings)

        def show() -> None:
            if done:
                echo(figures_text(done))

        finish(task.name, done, show, as_json=as_json, interrupted=stop.is_set)

    command.__doc__ = task.run.__doc__
    return command
