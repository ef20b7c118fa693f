"""The commands by name, each loaded when it is called: to load all takes longer than most of them run."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from usage_worker.errors import needs_extra
from usage_worker.interrupts import Loading

NAMES = (
    "demo",
    "up",
    "serve",
    "new-key",
    "publish",
    "status",
    "doctor",
    "metrics",
    "drain",
    "correct",
    "forget",
    "schedule",
    "report",
    "related",
    "anomalies",
    "search",
    "run",
    "bench",
    "migrate",
    "dead-letters",
)


def load(name: str) -> Any:
    """Return a command of Typer: its module has the function of its name, or `app` where it has subcommands."""
    place = name.replace("-", "_")
    with Loading(), needs_extra("server"):
        module = import_module(f"usage_worker.cli.{place}")
    if hasattr(module, "app"):
        group = typer.main.get_group(module.app)
        group.name = name
        return group
    app = typer.Typer(add_completion=False)
    app.command(name)(getattr(module, place))
    return typer.main.get_command(app)


class CommandGroup(TyperGroup):
    """`usage-worker` itself."""

    def __init__(self, **attributes: Any) -> None:
        # Typer suggests one of the names where a command is unknown.
        super().__init__(**attributes | {"commands": dict.fromkeys(NAMES)})

    def list_commands(self, _ctx: object) -> list[str]:
        """Return the names in the order of the help."""
        return list(NAMES)

    def get_command(self, _ctx: object, cmd_name: str) -> Any:
        """Return a command, None where there is none of that name."""
        return load(cmd_name) if cmd_name in NAMES else None
