"""`usage-worker run`: run a periodic task now, without Celery. Those without options of their own are run by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from usage_worker.cli.run.embed import embed
from usage_worker.cli.run.partitions import partitions
from usage_worker.cli.run.plain import plain_command
from usage_worker.cli.run.purge import purge
from usage_worker.cli.run.reconcile import reconcile
from usage_worker.cli.run.refresh import refresh
from usage_worker.maintenance.registry import PERIODIC_TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    help="Run a periodic task now, without Celery; `schedule` shows it as the task's last run.", no_args_is_help=True
)
_WITH_OPTIONS: dict[str, Callable[..., None]] = {
    "partitions": partitions,
    "purge": purge,
    "reconcile": reconcile,
    "refresh": refresh,
    "embed": embed,
}

for name, command in _WITH_OPTIONS.items():
    app.command(name)(command)
for task in PERIODIC_TASKS:
    if task.command not in _WITH_OPTIONS:
        app.command(task.command)(plain_command(task))
