"""What demo and benchmarks share: `--json`, the figures, and exit code 1 where what was checked does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer
from rich.console import Console

from usage_worker.cli.output import EXIT_PROBLEM, print_json
from usage_worker.interrupts import EXIT_INTERRUPTED
from usage_worker.local.stopping import leave_on_signal

if TYPE_CHECKING:
    from collections.abc import Callable

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


class Outcome(Protocol):
    """Figures, and whether what was checked holds: totals, recall or a bound."""

    @property
    def exact(self) -> bool: ...

    def as_dict(self) -> dict[str, Any]: ...


P = TypeVar("P", bound=Outcome)


def run_shown(run: Callable[[Callable[[str], None]], P], show: Callable[[P], None], *, as_json: bool) -> None:
    """Run a benchmark, with its progress on standard error, and `finish`."""
    result = None
    with leave_on_signal():
        result = run(Console(stderr=True, highlight=False).print)
    finish(result, show, as_json=as_json)


def finish(result: P | None, show: Callable[[P], None], *, as_json: bool) -> None:
    """Print the result and exit: with 130 when a signal came before it, with 1 when it is not `exact`."""
    if result is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        print_json(result.as_dict())
    else:
        show(result)
    if not result.exact:
        raise typer.Exit(EXIT_PROBLEM)


def totals_verdict(result: Outcome) -> str:
    """Return the line that says whether every total was right."""
    return f"totals exact: {'yes' if result.exact else 'NO'}"
