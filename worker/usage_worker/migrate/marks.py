"""Ownership of objects: a migration marks the names that it takes, and a rollback drops nothing that is not marked.

The names are those that the `.verify.sql` files list. A definition of NULL means that a migration uses the name only
for a while, and that it must not exist afterwards. The name of kind `partition` is a pattern. A mark is a row of a
table, so that it survives changed comments and a dump.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from usage_worker.migrate.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usage_worker.migrate.files import Migration
    from usage_worker.postgres import Connection


class Kept(NamedTuple):
    """Rows that a rollback keeps aside: whole rows, or only the columns that the older version does not have."""

    table: str
    rows: int
    only_columns: bool


def names(migrations: Sequence[Migration]) -> sql.Composed:
    """Build the statement that stores, for this session, which names each migration takes."""
    parts = [
        sql.SQL(query("names_of_migration")).format(
            number=sql.Literal(migration.number),
            transactional=sql.Literal(migration.transactional),
            expected=sql.SQL(migration.verify_sql.strip()),
        )
        for migration in migrations
        if migration.verify_sql is not None
    ]
    return sql.SQL(query("create_names")).format(sql.SQL("\nUNION ALL\n").join(parts))


def reservation(migration: Migration) -> sql.Composed:
    """Build the statement that marks those names of the migration that are free."""
    return sql.SQL(query("reserve_names")).format(number=sql.Literal(migration.number), free=sql.SQL(query("is_free")))


def releases(migration: Migration) -> tuple[sql.Composed, ...]:
    """Build the statements that delete the marks of dropped objects, and the table of marks once it is empty."""
    release = sql.SQL(query("release_names")).format(
        number=sql.Literal(migration.number), free=sql.SQL(query("is_free"))
    )
    return release, sql.SQL(query("drop_empty_marks")).format()


def adopted(connection: Connection) -> set[int]:
    """Return the numbers of the migrations whose tables or columns were adopted; a rollback leaves those."""
    return {number for (number,) in connection.execute(query("adopted_migrations"))}


def without_adopted(connection: Connection, plan: Iterable[Migration]) -> list[Migration]:
    """Choose the migrations of which nothing is adopted, whose objects a rollback drops."""
    left = adopted(connection)
    return [migration for migration in plan if migration.number not in left]


def adopted_releases(migration: Migration) -> tuple[sql.Composed, ...]:
    """Build the statements of `releases` for a migration whose tables or columns are adopted."""
    release = sql.SQL(query("release_adopted")).format(number=sql.Literal(migration.number))
    return release, sql.SQL(query("drop_empty_marks")).format()


def kept(connection: Connection, plan: Iterable[Migration]) -> list[Kept]:
    """List what the rollback would keep aside."""
    numbers = [migration.number for migration in plan]
    found = connection.execute(query("kept_tables"), {"plan": numbers}).fetchall()
    return [Kept(table, rows, only_columns) for table, only_columns in found if (rows := _count(connection, table))]


def _count(connection: Connection, table: str) -> int:
    count = sql.SQL(query("count_rows")).format(sql.Identifier(table))
    row = connection.execute(count).fetchone()
    return int(row[0]) if row else 0
