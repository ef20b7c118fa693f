"""Ownership of objects: a migration marks the names that it takes, and a rollback drops nothing that is not marked.

The names are those that the `.verify.sql` files list. A definition of NULL means that a migration uses the name only
for a while, and that it must not exist afterwards. The name of kind `partition` is a pattern. A mark is a row of a
table, so that it survives changed comments and a dump.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usage_worker.migrate.files import Migration
    from usage_worker.postgres import Connection

# The names of every migration of the files, for this session.
_NAMES = """
CREATE TEMPORARY TABLE usage_names AS
{}
"""
_NAMES_OF_ONE = """
SELECT {number} AS number, {transactional} AS transactional, kind, object, definition IS NULL AS transient
FROM (
{expected}
) AS expected (kind, object, definition)
"""
# True if no object has the name; the name of a function includes its arguments.
_FREE = """
CASE named.kind
    WHEN 'function' THEN NOT EXISTS (
        SELECT FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
            AND named.name = format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid))
    )
    WHEN 'auth' THEN named.name <> ALL (ARRAY(
        SELECT 'schema' FROM pg_namespace WHERE nspname = 'auth'
        UNION ALL
        SELECT 'users.id' FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'auth' AND c.relname = 'users'
        UNION ALL
        SELECT 'uid()' FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'auth' AND p.proname = 'uid'
    ))
    ELSE to_regclass(format('public.%I', named.name)) IS NULL
END
"""
_RESERVE = """
INSERT INTO public.usage_migration_objects (kind, name, number)
SELECT kind, name, number
FROM (SELECT kind, object AS name, number FROM pg_temp.usage_names) AS named
WHERE number = {number} AND kind IN ('table', 'view', 'index', 'sequence', 'function', 'auth') AND {free}
ON CONFLICT DO NOTHING
"""
# Objects that a rollback kept keep their marks.
_RELEASE = """
DELETE FROM public.usage_migration_objects AS named WHERE number = {number} AND {free}
"""
_LAST = """
DO $last$
BEGIN
    IF NOT EXISTS (SELECT FROM public.usage_migrations) AND NOT EXISTS (SELECT FROM public.usage_migration_objects) THEN
        DROP TABLE public.usage_migration_objects;
    END IF;
END
$last$
"""


class Kept(NamedTuple):
    """Rows that a rollback keeps aside: whole rows, or only the columns that the older version does not have."""

    table: str
    rows: int
    only_columns: bool


def names(migrations: Sequence[Migration]) -> sql.Composed:
    """Build the statement that stores, for this session, which names each migration takes."""
    parts = [
        sql.SQL(_NAMES_OF_ONE.strip()).format(
            number=sql.Literal(migration.number),
            transactional=sql.Literal(migration.transactional),
            expected=sql.SQL(migration.verify_sql.strip()),
        )
        for migration in migrations
        if migration.verify_sql is not None
    ]
    return sql.SQL(_NAMES.strip()).format(sql.SQL("\nUNION ALL\n").join(parts))


def reservation(migration: Migration) -> sql.Composed:
    """Build the statement that marks those names of the migration that are free."""
    return sql.SQL(_RESERVE).format(number=sql.Literal(migration.number), free=sql.SQL(_FREE.strip()))


def releases(migration: Migration) -> tuple[sql.Composed, ...]:
    """Build the statements that delete the marks of dropped objects, and the table of marks once it is empty."""
    release = sql.SQL(_RELEASE).format(number=sql.Literal(migration.number), free=sql.SQL(_FREE.strip()))
    return release, sql.SQL(_LAST).format()


def kept(connection: Connection, plan: Iterable[Migration]) -> list[Kept]:
    """List what the rollback would keep aside."""
    numbers = [migration.number for migration in plan]
    query = """
        SELECT made.object, min(made.number) <> ALL (%(plan)s)
        FROM pg_temp.usage_names AS n
        JOIN pg_temp.usage_names AS made ON made.kind = 'table' AND made.object = split_part(n.object, '_kept_', 1)
        JOIN public.usage_migrations AS record ON record.number = n.number
        WHERE n.number = ANY (%(plan)s) AND n.kind = 'table' AND n.object LIKE '%%\\_kept\\_%%'
            AND to_regclass('public.' || made.object) IS NOT NULL
        GROUP BY made.object ORDER BY made.object
    """
    found = connection.execute(query, {"plan": numbers}).fetchall()
    return [Kept(table, rows, only_columns) for table, only_columns in found if (rows := _count(connection, table))]


def _count(connection: Connection, table: str) -> int:
    query = sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(table))
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
