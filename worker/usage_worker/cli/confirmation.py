"""A question before a change that cannot be undone."""

from __future__ import annotations

import sys

import typer

from usage_worker.cli.output import EXIT_PROBLEM, echo
from usage_worker.errors import ConfirmationError
from usage_worker.printable import LINE_LENGTH, printable


def require_terminal(what: str) -> None:
    """Refuse to continue where standard input is not a terminal.

    Raises:
        ConfirmationError: it is not.
    """
    if not (sys.stdin and sys.stdin.isatty()):  # absent where it was closed from the start
        raise ConfirmationError(f"{what}; run it again with --yes to go on, nothing was changed")


def confirm(what: str) -> None:
    """Ask whether to go on; exit with 1 if not."""
    if not typer.confirm(f"{printable(what, LINE_LENGTH)}. Go on?", err=True):
        echo("nothing was changed", err=True)
        raise typer.Exit(EXIT_PROBLEM)
