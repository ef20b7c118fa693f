"""What is not ours and has a name of ours: named, all of it at once, before anything is changed.

Both queries read what `marks.names` noted; the script runs the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors, sql

from usage_worker.errors import ObstacleError
from usage_worker.migrate.connection import one_line
from usage_worker.migrate.verify import catalogue_sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.runner import Direction
    from usage_worker.postgres import Connection

_COMMON = """
WITH named AS (
    SELECT n.*, m.number IS NOT NULL AS marked,
        -- A step in one transaction that did not end made nothing.
        entry.number IS NOT NULL AND (entry.state = 'applied' OR NOT n.transactional) AS begun,
        entry.number IS NOT NULL AND entry.state = 'applied' AS applied,
        n.kind IN ('table', 'view', 'index', 'sequence') AS relation
    FROM pg_temp.usage_names AS n
    LEFT JOIN public.usage_migration_objects AS m ON m.kind = n.kind AND m.name = n.object
    LEFT JOIN public.usage_migrations AS entry ON entry.number = n.number
), relations AS (
    SELECT c.oid, c.relname::text AS name,
        CASE c.relkind
            WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' WHEN 'I' THEN 'index'
            WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' WHEN 'f' THEN 'foreign table' ELSE 'table'
        END || ' ' || c.relname AS told
    FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace
), functions AS (
    SELECT p.proname::text AS name, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) AS signature
    FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
)
"""
_UP = """
SELECT string_agg(DISTINCT told, ', ' ORDER BY told) FROM (
    SELECT r.told FROM named AS n JOIN relations AS r ON r.name = n.object
    WHERE n.number = ANY ({plan}) AND n.relation AND NOT n.marked
    UNION ALL
    -- A table or view brings a type of its name. An array's type gives way by itself.
    SELECT 'type ' || t.typname FROM named AS n JOIN pg_type AS t ON t.typname = n.object
    WHERE n.number = ANY ({plan}) AND n.kind IN ('table', 'view') AND NOT n.marked
        AND t.typnamespace = 'public'::regnamespace AND t.typrelid = 0
        AND NOT EXISTS (SELECT FROM pg_type AS element WHERE element.typarray = t.oid)
    UNION ALL
    -- Of whatever signature: a call could mean either.
    SELECT 'function ' || f.signature FROM named AS n JOIN functions AS f ON f.name = split_part(n.object, '(', 1)
    WHERE n.number = ANY ({plan}) AND n.kind = 'function' AND NOT n.marked
        AND NOT EXISTS (
            SELECT FROM public.usage_migration_objects AS m WHERE m.kind = 'function' AND m.name = f.signature
        )
    UNION ALL
    -- Ours hang on a marked table, or are on their way out.
    SELECT r.told FROM named AS n JOIN relations AS r ON r.name ~ ('^' || n.object || '$')
    WHERE n.number = ANY ({plan}) AND n.kind = 'partition'
        AND obj_description(r.oid, 'pg_class') IS DISTINCT FROM 'dropped by usage-worker'
        AND NOT EXISTS (
            SELECT FROM pg_inherits AS i JOIN relations AS parent ON parent.oid = i.inhparent
            JOIN public.usage_migration_objects AS m ON m.kind = 'table' AND m.name = parent.name
            WHERE i.inhrelid = r.oid
        )
    UNION ALL
    -- What somebody added to a table of ours, which an earlier migration made.
    SELECT format('%s %s', n.kind, n.object) FROM named AS n
    JOIN public.usage_migration_objects AS m
        ON m.kind = 'table' AND m.name = split_part(n.object, '.', 1) AND m.number < n.number
    WHERE n.number = ANY ({plan}) AND n.kind IN ('column', 'constraint', 'policy', 'trigger')
        AND NOT n.begun AND NOT n.passing
        AND NOT EXISTS (SELECT FROM named AS b WHERE b.begun AND b.kind = n.kind AND b.object = n.object)
        AND (n.kind, n.object) IN (SELECT fact.kind, fact.object FROM (
{catalogue}
        ) AS fact)
) AS found
"""
_DOWN = """
SELECT string_agg(DISTINCT told, ', ' ORDER BY told) FROM (
    SELECT r.told FROM named AS n JOIN relations AS r ON r.name = n.object
    WHERE n.number = ANY ({plan}) AND n.begun AND n.relation AND (NOT n.marked OR (n.passing AND n.applied))
    UNION ALL
    SELECT 'function ' || f.signature FROM named AS n JOIN functions AS f ON f.signature = n.object
    WHERE n.number = ANY ({plan}) AND n.begun AND n.kind = 'function'
        AND (NOT n.marked OR (n.passing AND n.applied))
) AS found
"""
_REMEDY = {
    "up": "the migrations need these names; rename or drop what has them and run migrate up again, nothing was changed",
    "down": "migrations did not make what has these names; rename it and run migrate down again, nothing was changed",
}
ENCODING = """
DO $encoding$
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE 'the database''s encoding is %, which cannot hold every text; %', current_setting('server_encoding'),
            'make a new one with createdb -E UTF8 -T template0';
    END IF;
END
$encoding$
"""
_SCRIPT_CHECK = """
DO $obstacles$
DECLARE
    obstacles text := (
{query}
    );
BEGIN
    IF obstacles IS NOT NULL THEN
        RAISE '%: {remedy}', obstacles;
    END IF;
END
$obstacles$
"""


def refuse_encoding(connection: Connection) -> None:
    """Make sure that the database can hold every text.

    Raises:
        ObstacleError: it cannot.
    """
    try:
        connection.execute(ENCODING)
    except errors.RaiseException as error:
        raise ObstacleError(one_line(error)) from None


def refuse(connection: Connection, plan: Iterable[Migration], direction: Direction) -> None:
    """Name everything that is not ours and has a name of these migrations.

    Raises:
        ObstacleError: there is something.
    """
    row = connection.execute(_obstacles(plan, direction)).fetchone()
    if row and row[0]:
        raise ObstacleError(f"{row[0]}: {_REMEDY[direction]}")


def refusal(plan: Iterable[Migration], direction: Direction) -> sql.Composed:
    """The statement for a script that does what `refuse` does."""
    query = _obstacles(plan, direction)
    return sql.SQL(_SCRIPT_CHECK).format(query=query, remedy=sql.SQL(_REMEDY[direction]))


def _obstacles(plan: Iterable[Migration], direction: Direction) -> sql.Composed:
    numbers = sql.SQL("{}::integer[]").format(sql.Literal([migration.number for migration in plan]))
    query = sql.SQL(_UP if direction == "up" else _DOWN)
    return sql.SQL(_COMMON.strip()) + query.format(plan=numbers, catalogue=sql.SQL(catalogue_sql()))
