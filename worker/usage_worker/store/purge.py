"""The statements of the purge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usage_worker.store.holders import short_lock_waits
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from datetime import date, timedelta

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

# Of one pass: their places take 12 MB as texts.
MOST_ROWS = 1_000_000


class Due(NamedTuple):
    """The number of rows that are due, and for how many seconds the oldest has been soft-deleted."""

    remaining: int
    oldest_remaining_seconds: float | None


def purge_due(store: Store, older_than: timedelta) -> Due:
    """Count the rows that were soft-deleted longer ago than `older_than`."""
    return Due(**store.long_rows(query("purge_due"), older_than=older_than)[0])


def purge_blocks(store: Store, older_than: timedelta, rows: int) -> list[str]:
    """Return the places of the rows that are due, in chunks of `rows`, each an argument of `purge_chunk`."""

    def fetch(connection: Connection) -> list[str]:
        connection.execute(query("no_time_limits"))
        connection.execute(query("sort_in_memory"))
        blocks = connection.execute(query("purge_blocks"), {"older_than": older_than, "rows": rows, "most": MOST_ROWS})
        return [places for (places,) in blocks]

    return store.read(fetch)


def purge_chunk(store: Store, task: str, places: str, older_than: timedelta) -> int:
    """Purge the rows at these places that are due and not locked. Returns the number purged.

    Raises:
        LockHeldError: somebody holds what belongs to the rows, or a whole table; the message names who.
    """
    with sole_transaction(store, task) as connection, short_lock_waits(connection):
        connection.execute(query("mark_purge"))
        return connection.execute(query("purge_chunk"), {"places": places, "older_than": older_than}).rowcount


def delete_expired_shares(store: Store, task: str, rows: int) -> int:
    """Delete up to `rows` expired shares. Returns the number deleted. Raises like `purge_chunk`."""
    with sole_transaction(store, task) as connection, short_lock_waits(connection):
        return connection.execute(query("delete_expired_shares"), {"rows": rows}).rowcount


def delete_retired_days(store: Store, task: str, oldest: date, rows: int) -> int:
    """Delete up to `rows` retired daily totals older than the ledger.

    Returns the number deleted. Raises like `purge_chunk`.
    """
    with sole_transaction(store, task) as connection, short_lock_waits(connection):
        return connection.execute(query("delete_retired_days"), {"oldest": oldest, "rows": rows}).rowcount
