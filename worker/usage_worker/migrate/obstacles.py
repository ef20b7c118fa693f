"""Refuse a migration that cannot succeed, before anything is changed, and name every obstacle at once.

The queries read the table that `marks.names` fills; the script runs the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors, sql

from usage_worker.errors import ObstacleError
from usage_worker.migrate.connection import one_line
from usage_worker.migrate.verify import catalogue_sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.runner import Direction
    from usage_worker.postgres import Connection

_COMMON = """
WITH named AS (
    SELECT n.*, m.number IS NOT NULL AS marked,
        -- A migration in one transaction that did not commit has made nothing.
        record.number IS NOT NULL AND (record.state = 'applied' OR NOT n.transactional) AS begun,
        record.number IS NOT NULL AND record.state = 'applied' AS applied,
        n.kind IN ('table', 'view', 'index', 'sequence') AS relation
    FROM pg_temp.usage_names AS n
    LEFT JOIN public.usage_migration_objects AS m ON m.kind = n.kind AND m.name = n.object
    LEFT JOIN public.usage_migrations AS record ON record.number = n.number
), relations AS (
    SELECT c.oid, c.relname::text AS name,
        CASE c.relkind
            WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' WHEN 'I' THEN 'index'
            WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' WHEN 'f' THEN 'foreign table' ELSE 'table'
        END || ' ' || c.relname AS label
    FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace
), functions AS (
    SELECT p.proname::text AS name, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) AS signature
    FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
)
"""
_UP = """
SELECT string_agg(DISTINCT label, ', ' ORDER BY label) FROM (
    SELECT r.label FROM named AS n JOIN relations AS r ON r.name = n.object
    WHERE n.number = ANY ({plan}) AND n.relation AND NOT n.marked
    UNION ALL
    -- A table or view brings a type of its name. PostgreSQL renames an array type that has the name.
    SELECT 'type ' || t.typname FROM named AS n JOIN pg_type AS t ON t.typname = n.object
    WHERE n.number = ANY ({plan}) AND n.kind IN ('table', 'view') AND NOT n.marked
        AND t.typnamespace = 'public'::regnamespace AND t.typrelid = 0
        AND NOT EXISTS (SELECT FROM pg_type AS element WHERE element.typarray = t.oid)
    UNION ALL
    -- With any signature, because a call could resolve to either function.
    SELECT 'function ' || f.signature FROM named AS n JOIN functions AS f ON f.name = split_part(n.object, '(', 1)
    WHERE n.number = ANY ({plan}) AND n.kind = 'function' AND NOT n.marked
        AND NOT EXISTS (
            SELECT FROM public.usage_migration_objects AS m WHERE m.kind = 'function' AND m.name = f.signature
        )
    UNION ALL
    -- Our partitions belong to a marked table or are being dropped.
    SELECT r.label FROM named AS n JOIN relations AS r ON r.name ~ ('^' || n.object || '$')
    WHERE n.number = ANY ({plan}) AND n.kind = 'partition'
        AND obj_description(r.oid, 'pg_class') IS DISTINCT FROM 'dropped by usage-worker'
        AND NOT EXISTS (
            SELECT FROM pg_inherits AS i JOIN relations AS parent ON parent.oid = i.inhparent
            JOIN public.usage_migration_objects AS m ON m.kind = 'table' AND m.name = parent.name
            WHERE i.inhrelid = r.oid
        )
    UNION ALL
    -- Additions of others to a table that an earlier migration of ours created.
    SELECT format('%s %s', n.kind, n.object) FROM named AS n
    JOIN public.usage_migration_objects AS m
        ON m.kind = 'table' AND m.name = split_part(n.object, '.', 1) AND m.number < n.number
    WHERE n.number = ANY ({plan}) AND n.kind IN ('column', 'constraint', 'policy', 'trigger')
        AND NOT n.begun AND NOT n.transient
        AND NOT EXISTS (SELECT FROM named AS b WHERE b.begun AND b.kind = n.kind AND b.object = n.object)
        AND (n.kind, n.object) IN (SELECT fact.kind, fact.object FROM (
{catalogue}
        ) AS fact)
) AS found
"""
_DOWN = """
SELECT string_agg(DISTINCT label, ', ' ORDER BY label) FROM (
    SELECT r.label FROM named AS n JOIN relations AS r ON r.name = n.object
    WHERE n.number = ANY ({plan}) AND n.begun AND n.relation AND (NOT n.marked OR (n.transient AND n.applied))
    UNION ALL
    SELECT 'function ' || f.signature FROM named AS n JOIN functions AS f ON f.signature = n.object
    WHERE n.number = ANY ({plan}) AND n.begun AND n.kind = 'function'
        AND (NOT n.marked OR (n.transient AND n.applied))
) AS found
"""
# A number is never reused: 43 columns come with 3.0.0 and 3 with 4.0.0, each time anew after a rollback. A table that a
# rollback kept under another name keeps its numbers.
_COLUMN_NUMBERS = """
SELECT string_agg(label, ', ' ORDER BY label) FROM (
    SELECT format(
        'table %s has used %s of 1600 column numbers, dropped columns included, and %s more are needed',
        c.relname, c.relnatts, count(DISTINCT n.object)
    ) AS label
    FROM named AS n JOIN pg_class AS c ON c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        AND c.relname ~ ('^' || split_part(n.object, '.', 1) || '(_kept_\\d+_\\d+_\\d+)?$')
    WHERE n.number = ANY ({plan}) AND n.kind = 'column' AND NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attname = split_part(n.object, '.', 2) AND NOT a.attisdropped
    )
    GROUP BY c.relname, c.relnatts
    HAVING c.relnatts + count(DISTINCT n.object) > 1600
) AS found
"""
# For each direction: a query that returns the obstacles as one text, or NULL, and what to do about them.
_CHECKS = {
    "up": (
        (_UP, "the migrations need these names; rename or drop what has them and run migrate up again"),
        (_COLUMN_NUMBERS, "dump and restore the table and run migrate up again"),
    ),
    "down": ((_DOWN, "migrations did not make what has these names; rename it and run migrate down again"),),
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
        RAISE '%: %', obstacles, {remedy};
    END IF;
END
$obstacles$
"""


def refuse_encoding(connection: Connection) -> None:
    """Refuse a database whose encoding cannot hold every text.

    Raises:
        ObstacleError: The encoding is not UTF8.
    """
    try:
        connection.execute(ENCODING)
    except errors.RaiseException as error:
        raise ObstacleError(one_line(error)) from None


def refuse(connection: Connection, plan: Iterable[Migration], direction: Direction) -> None:
    """Refuse a plan that cannot succeed: a name is taken, or a table has too few column numbers left.

    Raises:
        ObstacleError: Names every obstacle of one kind, and the remedy.
    """
    for query, remedy in _checks(plan, direction):
        row = connection.execute(query).fetchone()
        if row and row[0]:
            raise ObstacleError(f"{row[0]}: {remedy}")


def refusals(plan: Iterable[Migration], direction: Direction) -> list[sql.Composed]:
    """Build the statements with which a script does what `refuse` does."""
    return [
        sql.SQL(_SCRIPT_CHECK).format(query=query, remedy=sql.Literal(remedy))
        for query, remedy in _checks(plan, direction)
    ]


def _checks(plan: Iterable[Migration], direction: Direction) -> Iterator[tuple[sql.Composed, str]]:
    numbers = sql.SQL("{}::integer[]").format(sql.Literal([migration.number for migration in plan]))
    for query, remedy in _CHECKS[direction]:
        body = sql.SQL(query).format(plan=numbers, catalogue=sql.SQL(catalogue_sql()))
        yield sql.SQL(_COMMON.strip()) + body, f"{remedy}, nothing was changed"
