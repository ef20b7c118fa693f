"""How a command ends that measures something and proves it: the same for demo and benchmark."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable


class Outcome(Protocol):
    """Figures, and whether every total was exact."""

    @property
    def exact(self) -> bool: ...

    def as_dict(self) -> dict[str, Any]: ...


P = TypeVar("P", bound=Outcome)


def finish(result: P | None, show: Callable[[P], None], *, as_json: bool) -> None:
    """Print the result and exit: 130 when a signal came before there was one, 1 when a total was not exact."""
    if result is None:
        raise typer.Exit(130)
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
    else:
        show(result)
    if not result.exact:
        raise typer.Exit(1)
