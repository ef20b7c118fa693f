"""The end of a command that runs a periodic task: its figures, and its exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from usage_worker.cli.output import EXIT_PROBLEM, print_json
from usage_worker.errors import BusyError
from usage_worker.interrupts import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def finish(
    task: str,
    done: Mapping[str, Any],
    show: Callable[[], None],
    *,
    as_json: bool,
    interrupted: bool,
    figures: Mapping[str, Any] | None = None,
    problem: bool = False,
) -> None:
    """Print what was done, then exit: with 130 after a signal, with 1 for another process at work or a problem.

    Args:
        task: the name of the task.
        done: what `run_task` returned; empty where a signal came before.
        show: prints the figures for people; it is not called where another process left nothing to do.
        as_json: print JSON instead.
        interrupted: whether a signal has stopped the task.
        figures: what JSON has instead of `done`.
        problem: whether something is left that needs a person.

    Raises:
        BusyError: another process was at work.
        typer.Exit: likewise, for a signal or a problem.
    """
    is_busy = "busy" in done
    if as_json:
        found = done if figures is None else figures
        marks = {"busy": is_busy, "interrupted": interrupted}
        print_json({**found, **{name: True for name, is_so in marks.items() if is_so}})
    elif done != {"busy": True}:
        show()
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if is_busy:
        raise BusyError(task)
    if problem:
        raise typer.Exit(EXIT_PROBLEM)
