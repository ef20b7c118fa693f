"""The planner's statistics of tables that named erased users."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from usage_worker.store.forget_places import UNCOUNTED, tables_of_users
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from usage_worker.events.tombstones import Tombstone
    from usage_worker.store.connection import Store


class AnalyzedTable(NamedTuple):
    """A table or partition to analyse; `is_alone` where its partitions need not be analysed with it."""

    schema: str
    name: str
    is_alone: bool


def newest_erasure(store: Store, erased: Collection[Tombstone]) -> datetime | None:
    """Return when the last of these users was first erased; None: nobody of them was."""
    at: datetime | None = store.rows(query("newest_erasure"), hashes=[it.hash for it in erased])[0]["at"]
    return at


def stale_statistics(
    store: Store, users: Collection[UUID], changed: Collection[int], since: datetime | None
) -> list[AnalyzedTable]:
    """Return the tables whose statistics may have values of erased users, partitions before their parents.

    Args:
        store: the database.
        users: the erased users.
        changed: the tables and partitions that had rows of users, by oid.
        since: when users were erased whose statistics may have been left; None: nobody was.
    """
    found = store.rows(
        query("stale_statistics"),
        ids=[f"%{user}%" for user in users],
        changed=list(changed),
        tables=tables_of_users(),
        uncounted=list(UNCOUNTED),
        since=since,
    )
    return [AnalyzedTable(**row) for row in found]


def analyze(store: Store, table: AnalyzedTable) -> None:
    """Renew the statistics of a table.

    Raises:
        LockHeldError: others hold it.
        StatementCancelledError: it takes more than a minute.
    """
    # In a transaction, so that the limits are set behind a pooler, too.
    with store.connection() as connection:
        connection.execute(query("analyze_limits"))
        statement = query("analyze_alone" if table.is_alone else "analyze_table")
        connection.execute(sql.SQL(statement).format(table=sql.Identifier(table.schema, table.name)))
