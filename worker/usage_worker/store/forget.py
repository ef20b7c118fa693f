"""The transactions that erase a user, and the reads before them."""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import dict_row

from usage_worker.errors import DataRefusedError, ReferenceMissingError, RoleError
from usage_worker.postgres import translated
from usage_worker.store.byte_pages import in_pages
from usage_worker.store.forget_places import ACCOUNT, PAIRS, RETIRED, TASK_RUNS, identifier
from usage_worker.store.partitions import partition_states, partitions
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import LiteralString
    from uuid import UUID

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store
    from usage_worker.store.forget_places import Place

_LETTERS_AT_ONCE = 500
_USERS_AT_ONCE = 2_000
_MADE = 5

Letter = dict[str, Any]
"""A row of a table of dead letters, by column."""


def counts_of(store: Store, place: Place, user: UUID) -> dict[int, int]:
    """Return how many rows name the user there, by the oid of the table or partition."""
    with store.connection() as connection:
        _limit(connection)
        return dict(connection.execute(place.composed(f"forget_count{place.ending}"), {"user": user}).fetchall())


def users_in(store: Store, place: Place) -> Iterator[UUID]:
    """Yield the ids that stand there. The store is in use until the last one."""
    with store.connection() as connection:
        _limit(connection)
        # By a cursor of the server: there may be millions.
        with connection.cursor("users") as users:
            users.itersize = _USERS_AT_ONCE
            yield from (row[0] for row in users.execute(place.composed(f"forget_users{place.ending}")) if row[0])


def erase(store: Store, place: Place, user: UUID) -> int:
    """Erase the user in one column. Returns the number of rows."""
    with store.connection() as connection:
        _limit(connection)
        if place == TASK_RUNS:
            connection.execute(query("forget_lock_runs"))
        return _erase(connection, place, user)


def erase_account(store: Store, user: UUID) -> str:
    """Delete the pairs and the account of a user in one transaction, so that no other session makes pairs in between.

    Returns why the account itself stays if it does.
    """
    with store.connection() as connection:
        _limit(connection)
        parameters = {"user": user}
        connection.execute(query("forget_lock_pairs"), parameters)
        connection.execute(query("forget_conversation_ids"), parameters)
        _erase(connection, PAIRS, user)
        return _why_kept(connection, ACCOUNT, user)


def erase_of_application(store: Store, place: Place, user: UUID) -> str:
    """Erase the user in a column of the application's. Returns why rows stay if any do."""
    with store.connection() as connection:
        _limit(connection)
        return _why_kept(connection, place, user)


def _why_kept(connection: Connection, place: Place, user: UUID) -> str:
    """Erase a user in a table of others. Returns why rows stay if any do, in our words."""
    name, left = place.table_name, "the account" if place == ACCOUNT else "the user's rows"
    must = f"delete {left}" if place.action == "delete" else f"remove the user from {place.column}"
    try:
        with translated(), connection.transaction():
            _erase(connection, place, user)
            connection.execute(query("forget_check_constraints"))
    except RoleError:
        what = "delete from" if place.action == "delete" else "change"
        return f"this role may not {what} {name}; its owner or the platform must {must} there"
    except ReferenceMissingError:
        return f"rows of the application refer to {left} in {name}; delete them, then {left}"
    except DataRefusedError:
        pass  # as where a trigger skips the row without an error
    return f"a constraint or trigger of the application keeps {place.name}; {must} in the application"


def ledger_days(store: Store) -> list[str]:
    """Return the partitions of the ledger, also those that are being dropped."""
    return list(partitions(store, "usage_events"))


def erase_day(store: Store, partition: str, user: UUID) -> int:
    """Delete the events of a user in one partition of the ledger. Returns their number."""
    with store.connection() as connection:
        _limit(connection)
        if partition not in partition_states(connection, "usage_events"):
            return 0  # dropped meanwhile
        statement = sql.SQL(query("forget_day")).format(partition=sql.Identifier(partition))
        row = connection.execute(statement, {"user": user, "day": partition[-8:]}).fetchone()
        return int(row[0]) if row else 0


def erase_members(store: Store, task: str, user: UUID) -> int:
    """Subtract a user from the counts of pairs of agents. Raises BusyError where the task is at work."""
    with sole_transaction(store, task) as connection:
        rows = connection.execute(query("graph_forget"), {"user": user}).rowcount
        for name in ("graph_changes", "graph_apply_changes", "graph_keep_members"):
            connection.execute(query(name))
        return rows


def erase_user_id(store: Store, user: UUID) -> int:
    """Delete the application's own id of a user; the last step, since it leads to the other ones."""
    with store.connection() as connection:
        return connection.execute(query("forget_user_id"), {"user": user}).rowcount


def letters_that_may_name(store: Store, table: str, user: UUID, text: str | None) -> Iterator[list[Letter]]:
    """Yield pages of dead letters that may name a user, by its UUID or by the application's own id, oldest first."""
    # Of an id that is not known any more, every letter with an id may be it; version 5 is that of such UUIDs.
    runs = re.findall("[0-9A-Za-z]+", text or "")
    piece = max(runs, key=len, default="") if text or user.version == _MADE else None
    yield from _pages(store, table, patterns=[f"%{user.hex}%"], text=piece)


def all_letters(store: Store, table: str) -> Iterator[list[Letter]]:
    """Yield pages of all dead letters, oldest first."""
    yield from _pages(store, table, patterns=["%"], text=None)


def _pages(store: Store, table: str, **parameters: Any) -> Iterator[list[Letter]]:
    for page in in_pages(_sizes(store, table, **parameters), itemgetter("bytes")):
        yield store.rows(_of_table(query("forget_read_letters"), table), ids=[it["id"] for it in page])


def _sizes(store: Store, table: str, **parameters: Any) -> Iterator[dict[str, int]]:
    after = 0
    statement = _of_table(query("forget_letters"), table)
    while page := store.long_rows(statement, after=after, rows=_LETTERS_AT_ONCE, **parameters):
        yield from page
        after = page[-1]["id"]


def _of_table(statement: LiteralString, table: str) -> Any:
    return sql.SQL(statement).format(table=identifier(table))


def rewrite_letters(
    store: Store, table: str, numbers: Sequence[int], left_of: Callable[[Letter], Letter | None]
) -> list[Letter]:
    """Replace dead letters by what `left_of` leaves of them; None deletes one. Returns the deleted ones.

    They are locked before they are read: the erasure of another user may take its events out of the same letters.
    """
    lock, rewrite, delete = (
        _of_table(query(name), table) for name in ("forget_lock_letters", "forget_in_letter", "forget_delete_letters")
    )
    deleted = []
    with store.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
        _limit(connection)
        for letter in cursor.execute(lock, {"ids": numbers}).fetchall():
            left = left_of(letter)
            if left is None:
                deleted.append(letter)
            elif left is not letter:
                connection.execute(rewrite, left)
        connection.execute(delete, {"ids": [letter["id"] for letter in deleted]})
    return deleted


def erase_retired(store: Store, user: UUID) -> int:
    """Delete the retired days of a user that are older than the ledger."""
    return erase(store, RETIRED, user)


def _erase(connection: Connection, place: Place, user: UUID) -> int:
    return connection.execute(place.composed(place.erasure), {"user": user}).rowcount


def _limit(connection: Connection) -> None:
    connection.execute(query("no_time_limits"))
    connection.execute(query("forget_limits"))
