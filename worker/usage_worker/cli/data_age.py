"""How old the figures are that a command shows: those of a replica are behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.cli.output import echo

if TYPE_CHECKING:
    from usage_worker.store.connection import Store

# Seconds. A replica that is not behind is less than that.
SHOWN_FROM = 1.0


def data_age(store: Store) -> float | None:
    """Say on standard error how far a replica for reports is behind. Returns the seconds; None for a primary."""
    age = store.data_age()
    if age is not None and age >= SHOWN_FROM:
        echo(f"these figures are those of a replica that is {age:,.0f} s behind", err=True)
    return age
