"""Where ids of users stand in the database, and the transactions that erase one of them."""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from psycopg import sql
from psycopg.rows import dict_row

from usage_worker.errors import ReferenceMissingError, RoleError
from usage_worker.postgres import translated
from usage_worker.store.byte_pages import in_pages
from usage_worker.store.partitions import partition_states, partitions
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import LiteralString
    from uuid import UUID

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

_KEPT = re.compile(r"_kept_\d+_\d+_\d+$")
_LETTERS_AT_ONCE = 500
_USERS_AT_ONCE = 2_000
_MADE = 5

Letter = dict[str, Any]
"""A row of a table of dead letters, by column."""


class Place(NamedTuple):
    """A column with ids of users, and what an erasure does with its rows."""

    table: str
    column: str
    action: Literal["delete", "unset"] = "delete"
    form: Literal["id", "array", "text"] = "id"

    @property
    def ending(self) -> str:
        """The ending of the names of its queries."""
        return "" if self.form == "id" else f"_{self.form}"

    @property
    def erasure(self) -> str:
        """The name of the query that erases it."""
        return f"forget_{self.action}" + ("_shared_with" if self.column == "shared_with" else self.ending)

    @property
    def name(self) -> str:
        """Table and column, as people write them."""
        return f"{self.table.removeprefix('public.')}.{self.column}"

    @property
    def is_share(self) -> bool:
        """Whether it is erased before the pairs and the account."""
        return self in _SHARES


# In this order: what a step writes by its triggers, as shares the audit trail, a later one erases.
_SHARES = (
    Place("public.user_agent_shares", "shared_with_user"),
    Place("public.user_agent_shares", "created_by", "unset"),
    Place("public.user_agent_shares", "accepted_by", "unset", "array"),
    Place("public.user_agent_shares", "declined_by", "unset", "array"),
    Place("public.user_agents", "shared_with", "unset", "array"),
)
_PAIRS = Place("public.user_agents", "user_id")
ACCOUNT = Place("auth.users", "id")
_REST = (
    Place("public.user_agent_shares", "owner_id"),
    Place("public.user_profiles", "id"),
    Place("public.user_role_assignments", "user_id"),
    Place("public.agents", "created_by", "unset"),
    Place("public.user_agent_conversations", "user_id"),
    Place("public.usage_daily", "user_id"),
    Place("public.usage_corrections", "user_id"),
    Place("public.user_agent_history", "user_id"),
    Place("public.user_agent_history", "actor", "unset"),
    Place("public.user_agent_history", "changes", "unset", "text"),
    Place("public.usage_task_runs", "report", "unset", "text"),
)
_LEDGER = Place("public.usage_events", "user_id")
_RETIRED = Place("public.usage_retired_daily", "user_id")
_GRAPH = Place("public.agent_graph_members", "user_id")
_EXTERNAL_IDS = Place("public.usage_external_ids", "id")
_PLACES = (*_SHARES, _PAIRS, ACCOUNT, *_REST, _LEDGER, _RETIRED, _GRAPH, _EXTERNAL_IDS)
_LETTERS = "public.usage_dead_letters"


def user_places(store: Store) -> list[Place]:
    """Return the columns that exist, also those that a rollback keeps aside."""
    return list(_present(store))


def letter_tables(store: Store) -> list[str]:
    """Return the tables of dead letters."""
    return [name for name in _columns(store) if _KEPT.sub("", name) == _LETTERS]


def count_of(store: Store, place: Place, user: UUID) -> int:
    """Return how many rows name the user there."""
    with store.connection() as connection:
        _limit(connection)
        row = connection.execute(_composed(f"forget_count{place.ending}", place), {"user": user}).fetchone()
    return int(row[0]) if row else 0


def users_in(store: Store, place: Place) -> Iterator[UUID]:
    """Yield the ids that stand there. The store is in use until the last one."""
    with store.connection() as connection:
        _limit(connection)
        # By a cursor of the server: there may be millions.
        with connection.cursor("users") as users:
            users.itersize = _USERS_AT_ONCE
            yield from (row[0] for row in users.execute(_composed(f"forget_users{place.ending}", place)) if row[0])


def erase(store: Store, place: Place, user: UUID) -> int:
    """Erase the user in one column. Returns the number of rows."""
    with store.connection() as connection:
        _limit(connection)
        return _erase(connection, place, user)


def erase_account(store: Store, user: UUID) -> str:
    """Delete the pairs and the account of a user in one transaction, so that no other session makes pairs in between.

    Returns why the account itself stays, or an empty text.
    """
    with store.connection() as connection:
        _limit(connection)
        parameters = {"user": user}
        connection.execute(query("forget_lock_pairs"), parameters)
        connection.execute(query("forget_conversation_ids"), parameters)
        _erase(connection, _PAIRS, user)
        try:
            with translated(), connection.transaction():
                _erase(connection, ACCOUNT, user)
        except RoleError:
            return "this role may not delete from auth.users; delete the account there, as the platform does it"
        except ReferenceMissingError:
            return "rows of the application refer to the account in auth.users; delete them, then the account"
    return ""


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
    while page := store.rows(statement, after=after, rows=_LETTERS_AT_ONCE, **parameters):
        yield from page
        after = page[-1]["id"]


def _of_table(statement: LiteralString, table: str) -> Any:
    return sql.SQL(statement).format(table=_identifier(table))


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


def steps(store: Store) -> list[Place]:
    """Return the columns that `erase` erases, in their order; `erase_account`, ledger and graph have their own."""
    own = {_PAIRS, ACCOUNT, _LEDGER, _RETIRED, _GRAPH, _EXTERNAL_IDS}
    present = [place for place in user_places(store) if place not in own]
    return sorted(present, key=lambda it: (it not in _SHARES, bool(_kept_place(it))))


def erase_retired(store: Store, user: UUID) -> int:
    """Delete the retired days of a user that are older than the ledger."""
    return erase(store, _RETIRED, user)


def _present(store: Store) -> Iterator[Place]:
    columns = _columns(store)
    for place in _PLACES:
        for table, names in columns.items():
            if _KEPT.sub("", table) == place.table and place.column in names:
                yield place._replace(table=table)


def _kept_place(place: Place) -> bool:
    return bool(_KEPT.search(place.table))


def _columns(store: Store) -> dict[str, list[str]]:
    return {row["name"]: row["columns"] for row in store.rows(query("forget_columns"))}


def _erase(connection: Connection, place: Place, user: UUID) -> int:
    return connection.execute(_composed(place.erasure, place), {"user": user}).rowcount


def _limit(connection: Connection) -> None:
    connection.execute(query("forget_limits"))


def _composed(name: str, place: Place) -> sql.Composed:
    return sql.SQL(query(name)).format(table=_identifier(place.table), column=sql.Identifier(place.column))


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split(".", 1))
