"""Give the objects of migrations their expected definitions, for repair and adoption.

An object may need another one first, so every object is tried in each round, until a round changes nothing.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from usage_worker.migrate.connection import one_line
from usage_worker.migrate.definitions import GRANT, Sources, Statement, column_parts, statements
from usage_worker.migrate.meaning import renames
from usage_worker.migrate.queries import query
from usage_worker.migrate.verify import differences, expectations
from usage_worker.postgres import LOST_RACES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.verify import Difference, Key
    from usage_worker.postgres import Connection

# Columns first, since a view or a trigger on a column keeps its type from being changed. Views before tables: filling a
# materialized view takes longest, and most repairs then hold no lock on a table yet. Policies before tables: row-level
# security hides every row while there is none. Grants last: nobody reads a materialized view before it is filled.
_ORDER = (
    "role", "auth", "column", "function", "view", "policy", "table", "replica identity", "partition", "constraint",
    "trigger", "grant",
)  # fmt: skip
# Most repairs need two: the second makes what the first dropped together with something else, such as grants. Few,
# because the transaction keeps the locks of every object that a round makes.
_MOST_ROUNDS = 4


class Completion:
    """Gives the objects of migrations the expected definitions, within a transaction.

    Args:
        connection: a connection that is in a transaction.
        migrations: the migrations whose objects are expected.
        adopting: others made the tables: columns may get another type, missing tables are created, and functions of our
            names with other arguments are dropped.
    """

    def __init__(self, connection: Connection, migrations: Sequence[Migration], *, adopting: bool = False) -> None:
        self._connection = connection
        self.migrations = migrations
        self._adopting = adopting
        self._sources = Sources(migrations)
        self.before = self.left = differences(connection, migrations)
        self.reasons: dict[Key, str] = {}
        """The error for each object that could not be made."""

    def run(self, kinds: Collection[str] = _ORDER) -> None:
        """Repeat rounds until nothing of these kinds is left or a round changes nothing. Indexes are not built here."""
        if self._adopting and any(map(_changes_type, self.left)):
            self._drop_dependents()
            self.left = differences(self._connection, self.migrations)
        for _ in range(_MOST_ROUNDS):
            before = self.left
            found = [it for it in before if it.kind in kinds or it.kind == "index"]
            if all(it.kind == "index" and it.named for it in found):
                break
            self._round(found)
            self.left = differences(self._connection, self.migrations)
            if self.left == before:
                break

    def _round(self, found: Sequence[Difference]) -> None:
        expected = expectations(self._connection, self.migrations)
        self._connection.execute("SET search_path = public")
        for rename in renames(found):
            self._try([], [rename])
        for kind, group in groupby(sorted(found, key=_place), lambda different: different.kind):
            if kind == "view":
                self._make_views({different.object for different in group}, expected)
                continue
            for different in group:
                self._make(different, expected)

    def _make(self, different: Difference, expected: dict[Key, str | None]) -> None:
        kind, name = different.kind, different.object
        if kind == "index" or not (different.named or self._may_change(different, expected)):
            return
        if kind == "grant" and self._lacks(name):
            return  # whatever has its name is not ours
        plan: list[Statement] = statements(different)
        if kind == "function" and different.wanted is None:
            plan = [sql.SQL(f"DROP FUNCTION public.{name}")]
        source = self._source(different)
        if source:
            plan.append(sql.SQL(source))
        if not plan:
            return
        made = self._try([(kind, name)], plan)
        if not made and kind == "function" and different.wanted:
            # OR REPLACE keeps the result type and the names of parameters.
            self._try([(kind, name)], [sql.SQL(f"DROP FUNCTION IF EXISTS public.{name}"), *plan])

    def _source(self, different: Difference) -> str | None:
        """Return the statement of the files that creates it."""
        if different.wanted is None:
            return None
        if different.kind == "table":
            # A repair cannot bring back the rows of a lost table; in an adopted database a missing table is a new one.
            return self._sources.create("table", different.object) if self._adopting and not different.found else None
        statement = self._sources.create(different.kind, different.object)
        if different.kind == "trigger" and not (statement and statement.upper().startswith("CREATE")):
            # The statement is a block that creates other objects, too.
            return different.wanted
        return statement

    def _lacks(self, grant: str) -> bool:
        """Tell whether the table or view of a grant is missing."""
        parts = GRANT.fullmatch(grant)
        relation = parts and parts["name"].partition(".")[0]
        return any(it.kind in ("table", "view") and it.object == relation and it.found is None for it in self.left)

    def _may_change(self, different: Difference, expected: dict[Key, str | None]) -> bool:
        """Tell whether an object that no migration names is changed: a grant on ours or, when adopting, a function."""
        if different.kind == "function":
            return self._adopting
        parts = GRANT.fullmatch(different.object) if different.kind == "grant" else None
        if parts is None:
            return False
        kinds = ("table", "view") if parts["what"] == "table" else (parts["what"],)
        return any(expected.get((kind, parts["name"])) for kind in kinds)

    def _make_views(self, wrong: set[str], expected: dict[Key, str | None]) -> None:
        """Recreate views, each with the others of its statement and with the views that read one of them."""
        sources = self._sources.views()
        made: set[str] = set()
        for name, statement in sources.items():
            if name not in wrong - made:
                continue
            drops = self._drop_views(name)
            again = [view for view, text in sources.items() if text == statement or view in drops]
            plan = [*drops.values(), *map(sql.SQL, dict.fromkeys(sources[view] for view in again))]
            plan += [
                sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier("public", view))
                for view in again
                if (expected.get(("view", view)) or "").startswith("materialized")
            ]
            self._try([("view", view) for view in again], plan)
            made.update(again)

    def _drop_views(self, name: str) -> dict[str, Statement]:
        """Build the statements that drop a view, the others of its statement, and the views that read one of them."""
        sources = self._sources.views()
        drops: dict[str, Statement] = {}
        for made in (view for view, text in sources.items() if text == sources[name]):
            for view, materialized in self._connection.execute(query("dependent_views"), [made]).fetchall():
                if view in sources:
                    drop = "DROP MATERIALIZED VIEW {}" if materialized else "DROP VIEW {}"
                    drops.setdefault(view, sql.SQL(drop).format(sql.Identifier("public", view)))
        return drops

    def _drop_dependents(self) -> None:
        """Drop views, triggers and policies of our names: a column that one of them reads cannot change its type."""
        for view in self._sources.views():
            self._try([("view", view)], self._drop_views(view).values())
        for kind, name in expectations(self._connection, self.migrations):
            if kind in {"trigger", "policy"}:
                table, _, part = name.partition(".")
                drop = sql.SQL(f"DROP {kind} IF EXISTS {{}} ON {{}}")
                self._try([(kind, name)], [drop.format(sql.Identifier(part), sql.Identifier("public", table))])

    def _try(self, keys: Iterable[Key], plan: Iterable[Statement]) -> bool:
        try:
            with self._connection.transaction():
                for statement in plan:
                    self._connection.execute(statement)
        except LOST_RACES:
            raise
        except psycopg.DatabaseError as error:
            if self._connection.closed:
                raise
            # Of a column the first reason: later it is the view on it that was made again.
            new = (key for key in keys if key[0] != "column" or key not in self.reasons)
            self.reasons |= dict.fromkeys(new, one_line(error))
            return False
        for key in keys:
            self.reasons.pop(key, None)
        return True


def _changes_type(different: Difference) -> bool:
    if different.kind != "column" or different.found is None or different.wanted is None:
        return False
    return column_parts(different.found)[0] != column_parts(different.wanted)[0]


def _place(different: Difference) -> tuple[int, bool]:
    """Order by kind; what must not exist is dropped first, because it may have the name of something expected."""
    place = _ORDER.index(different.kind) if different.kind in _ORDER else len(_ORDER)
    return place, different.wanted is not None
