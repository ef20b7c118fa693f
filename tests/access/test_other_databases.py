"""The table in databases with other grants or objects; the roles of the sample data are global to a server."""

from __future__ import annotations

import psycopg

from tests.access.matrix import all_cells, differences
from tests.access.sample import populate
from tests.access.table import read_table
from tests.integration.database import run, schema
from usage_worker.migrate import Runner

# Of everything in our schemas, the partitions, the sequences, the columns and the functions among it.
PRIVILEGES = """
    WITH acls AS (
        SELECT c.relnamespace AS schema, c.relkind::text AS kind, regexp_replace(c.relname, '_[0-9]+$', '') AS name,
               coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
          FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S')
         UNION ALL
        SELECT c.relnamespace, 'column', format('%s.%s', c.relname, a.attname), a.attacl
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL
         UNION ALL
        SELECT p.pronamespace, 'function', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner))
          FROM pg_proc p
         UNION ALL
        SELECT n.oid, 'schema', n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner)) FROM pg_namespace n
    )
    SELECT DISTINCT kind, name, grantee::regrole::text, privilege_type, is_grantable
      FROM acls, aclexplode(acl) WHERE schema IN ('public'::regnamespace, 'auth'::regnamespace)
     ORDER BY 1, 2, 3, 4
"""


def test_default_privileges_of_platform_change_nothing(empty_database: str, database: str) -> None:
    """Default privileges in schema public as Supabase sets them, before the first migration."""
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        everybody = "anon, authenticated, service_role"
        run(empty_database, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {kind} TO {everybody}")
    Runner(empty_database).up()
    expected = run(database, PRIVILEGES)
    assert len(expected) > 500
    assert run(empty_database, PRIVILEGES) == expected
    assert schema(empty_database) == schema(database)
    with psycopg.connect(empty_database) as connection:
        populate(connection)
        cells = [cell for cell in all_cells(connection) if cell.row == "live" and not cell.part]
        assert differences(connection, read_table(), cells) == []
        connection.rollback()


def test_undocumented_objects_are_detected(database: str) -> None:
    unknown = {
        "new_table": "TABLE public.new_table AS SELECT 1 AS id",
        "new_view": "VIEW public.new_view AS SELECT 1 AS id",
        "new_matview": "MATERIALIZED VIEW public.new_matview AS SELECT 1 AS id",
        "new_function": "FUNCTION public.new_function() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "new_sequence": "SEQUENCE auth.new_sequence",
        "new_schema": "SCHEMA new_schema",
    }
    for definition in unknown.values():
        run(database, f"CREATE {definition}")
    with psycopg.connect(database) as connection:
        populate(connection)
        cells = [cell for cell in all_cells(connection) if any(name in cell.object_name for name in unknown)]
        found = [line for line in differences(connection, read_table(), cells) if "docs/access.md has no line" in line]
        connection.rollback()
    assert [name for name in unknown if not any(name in line for line in found)] == []
