"""The statements of the purge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import SettingsError
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from datetime import date, timedelta

    from usage_worker.store.connection import Store


class Due(NamedTuple):
    """Rows that are past their time, and for how many seconds the oldest has been deleted."""

    remaining: int
    oldest_remaining_seconds: float | None


def require_rls_bypass(store: Store) -> None:
    """Make sure that row-level security hides nothing from us.

    Raises:
        SettingsError: it does; what is hidden would look like what is not there.
    """
    if not store.rows(query("bypasses_rls"))[0]["bypasses_rls"]:
        raise SettingsError("row-level security hides rows from DATABASE_URL's role; give the tables' owner")


def purge_due(store: Store, older_than: timedelta) -> Due:
    """What was deleted longer ago than that and is still there."""
    return Due(**store.rows(query("purge_due"), older_than=older_than)[0])


def purge_blocks(store: Store, older_than: timedelta, rows: int) -> list[str]:
    """Where the rows are that were deleted longer ago than that, in chunks of so many, as `purge_chunk` takes them."""
    return [row["places"] for row in store.rows(query("purge_blocks"), older_than=older_than, rows=rows)]


def purge_chunk(store: Store, task: str, places: str, older_than: timedelta) -> int:
    """Purge what is due at these places; how many rows that were. What is being changed right now is passed over."""
    with sole_transaction(store, task) as connection:
        connection.execute(query("mark_purge"))
        return connection.execute(query("purge_chunk"), {"places": places, "older_than": older_than}).rowcount


def delete_expired_shares(store: Store, task: str, rows: int) -> int:
    """Remove the expired shares of so many rows; how many there were."""
    with sole_transaction(store, task) as connection:
        return connection.execute(query("delete_expired_shares"), {"rows": rows}).rowcount


def delete_retired_days(store: Store, task: str, oldest: date, rows: int) -> int:
    """Forget so many sums of ended lives on days before the oldest day of the ledger; how many there were."""
    with sole_transaction(store, task) as connection:
        return connection.execute(query("delete_retired_days"), {"oldest": oldest, "rows": rows}).rowcount
