"""Where ids of users stand in the database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from psycopg import sql

from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.store.connection import Store

_KEPT = re.compile(r"_kept_\d+_\d+_\d+$")


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
    def table_name(self) -> str:
        """The table, as people write it."""
        return self.table.removeprefix("public.")

    @property
    def name(self) -> str:
        """Table and column, as people write them."""
        return f"{self.table_name}.{self.column}"

    @property
    def is_share(self) -> bool:
        """Whether it is erased before the pairs and the account."""
        return self in _SHARES

    @property
    def is_of_application(self) -> bool:
        """Whether the table may be the application's, so that our role may lack the right to erase there."""
        return _KEPT.sub("", self.table) in _OF_APPLICATION

    def composed(self, name: str) -> sql.Composed:
        """Return a query with the names of table and column."""
        # The application may let us see the column alone, and has no partitions that we look after.
        oid = sql.SQL("{}::regclass").format(sql.Literal(self.table)) if self.is_of_application else sql.SQL("tableoid")
        return sql.SQL(query(name)).format(table=identifier(self.table), column=sql.Identifier(self.column), oid=oid)


# In this order: what a step writes by its triggers, as shares the audit trail, a later one erases.
_SHARES = (
    Place("public.user_agent_shares", "shared_with_user"),
    Place("public.user_agent_shares", "created_by", "unset"),
    Place("public.user_agent_shares", "accepted_by", "unset", "array"),
    Place("public.user_agent_shares", "declined_by", "unset", "array"),
    Place("public.user_agents", "shared_with", "unset", "array"),
)
PAIRS = Place("public.user_agents", "user_id")
ACCOUNT = Place("auth.users", "id")
TASK_RUNS = Place("public.usage_task_runs", "report", "unset", "text")
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
    TASK_RUNS,
)
_OF_APPLICATION = {ACCOUNT.table, "public.user_profiles", "public.user_role_assignments", "public.agents"}
_LEDGER = Place("public.usage_events", "user_id")
RETIRED = Place("public.usage_retired_daily", "user_id")
_GRAPH = Place("public.agent_graph_members", "user_id")
_EXTERNAL_IDS = Place("public.usage_external_ids", "id")
_PLACES = (*_SHARES, PAIRS, ACCOUNT, *_REST, _LEDGER, RETIRED, _GRAPH, _EXTERNAL_IDS)
_LETTERS = "public.usage_dead_letters"
# Erased with the rest, without a count of the user's rows by table.
UNCOUNTED = (_LETTERS, _EXTERNAL_IDS.table, "public.user_agent_analytics")


def user_places(store: Store) -> list[Place]:
    """Return the columns that exist, also those that a rollback keeps aside."""
    return list(_present(store, "columns"))


def hidden_places(store: Store) -> set[Place]:
    """Return those of which row-level security or a missing right may hide rows from our role."""
    return set(_present(store, "hidden"))


def _present(store: Store, which: str) -> Iterator[Place]:
    tables = store.rows(query("forget_columns"))
    for place in _PLACES:
        for table in tables:
            if _KEPT.sub("", table["name"]) == place.table and place.column in table[which]:
                yield place._replace(table=table["name"])


def tables_of_users() -> list[str]:
    """Return the tables with ids or words of users, whether they exist or not."""
    return sorted({place.table for place in _PLACES} | set(UNCOUNTED))


def steps(store: Store) -> list[Place]:
    """Return the columns that `erase` erases, in their order; `erase_account`, ledger and graph have their own.

    Those of the application come last, since they may be kept from us.
    """
    own = {PAIRS, ACCOUNT, _LEDGER, RETIRED, _GRAPH, _EXTERNAL_IDS}
    present = [place for place in user_places(store) if place not in own]
    return sorted(present, key=lambda it: (not it.is_share, it.is_of_application, bool(_KEPT.search(it.table))))


def own_places(store: Store) -> list[Place]:
    """Return the columns of our tables of which `erase` leaves nothing."""
    others = (_GRAPH.table, _EXTERNAL_IDS.table)
    return [it for it in user_places(store) if not it.is_of_application and it.table not in others]


def letter_tables(store: Store) -> list[str]:
    """Return the tables of dead letters."""
    return [row["name"] for row in store.rows(query("forget_columns")) if _KEPT.sub("", row["name"]) == _LETTERS]


def identifier(table: str) -> sql.Identifier:
    """Return the quoted name of a table of a schema."""
    return sql.Identifier(*table.split(".", 1))
