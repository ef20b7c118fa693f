"""`usage-worker report`: the totals of each of the last days, in the reader's time zone."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.output import print_json, print_rows
from usage_worker.errors import SettingsError
from usage_worker.monitoring.daily_usage import daily_usage
from usage_worker.settings import load_settings
from usage_worker.store import Store, id_of

if TYPE_CHECKING:
    from uuid import UUID

Days = Annotated[int, typer.Option(min=1, help="How many days up to today; at most those that the ledger keeps.")]
User = Annotated[
    str | None, typer.Option(metavar="ID", help="Count this user's events only: a UUID, or your own id of the user.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print an array of days as JSON; cost is a string.")]


def report(days: Days = 7, user: User = None, as_json: AsJson = False) -> None:
    """Show uses, messages, tokens, cost, success rate and latency of each of the last days, in USAGE_TIMEZONE."""
    settings = load_settings()
    with Store(settings.require_database(), pooled=settings.pooled) as store:
        rows = daily_usage(store, settings, days, None if user is None else _id_of(store, user))
    if as_json:
        print_json(rows)
        return
    cells = [[_text(value) for value in row.values()] for row in rows]
    print_rows(list(rows[0]), cells, title=f"days in {settings.timezone}", headings_in_lines=True)


def _id_of(store: Store, user: str) -> UUID:
    with store.connection() as connection:
        found = id_of(connection, "user", user)
    if found is None:
        raise SettingsError(f"no event has named the user {user!r}")
    return found


def _text(value: object) -> str:
    """Format a value: nothing where it is unknown, and a small cost without an exponent, which looks like text."""
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
