"""`usage-worker report`: what each of the last days counted, in the time zone of who reads it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from usage_worker.errors import SettingsError
from usage_worker.logs import configure_logs
from usage_worker.service.resources import Resources
from usage_worker.settings import load_settings
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Sequence

Days = Annotated[int, typer.Option(min=1, help="How many days up to today; so many as the ledger keeps, at most.")]
User = Annotated[UUID | None, typer.Option(help="Count this user's events only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print an array of days as JSON; cost is a string.")]


def report(days: Days = 7, user: User = None, as_json: AsJson = False) -> None:
    """Show uses, messages, tokens, cost, success rate and latency of each of the last days, in USAGE_TIMEZONE."""
    settings = load_settings()
    configure_logs(settings)
    if days > settings.retention_days:
        raise SettingsError(f"--days: the ledger keeps {settings.retention_days} days (USAGE_RETENTION_DAYS)")
    with Resources(settings) as resources:
        rows = resources.store.rows(query("usage_by_day"), zone=settings.timezone, days=days, user_id=user)
    if as_json:
        typer.echo(json.dumps(rows, default=_plain))
    else:
        _show(rows, f"days in {settings.timezone}")


def _show(rows: Sequence[dict[str, Any]], title: str) -> None:
    console = Console()
    if not console.is_terminal:
        # Tabs, for cut and spreadsheets.
        for cells in (rows[0], *(row.values() for row in rows)):
            typer.echo("\t".join(map(_plain, cells)))
        return
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(_plain, row.values()))
    console.print(table)


def _plain(value: object) -> str:
    """Unknown is nothing, and small costs have no exponent, which a reader may take for text."""
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
