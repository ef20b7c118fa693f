"""The table in databases with other grants or objects; the roles of the sample data are global to a server."""

from __future__ import annotations

import psycopg
import pytest

from tests.access.matrix import all_cells, differences
from tests.access.sample import populate
from tests.access.table import read_table
from tests.integration.database import run
from usage_worker.migrate import Runner


def test_default_privileges_of_platform_change_nothing(empty_database: str) -> None:
    """Default privileges in schema public as Supabase sets them, before the first migration."""
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        everybody = "anon, authenticated, service_role"
        run(empty_database, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {kind} TO {everybody}")
    Runner(empty_database).up()
    with psycopg.connect(empty_database) as connection:
        populate(connection)
        assert differences(connection, read_table(), all_cells(connection)) == []
        connection.rollback()


@pytest.mark.parametrize(
    "unknown",
    [
        "TABLE public.newcomer AS SELECT 1 AS id",
        "VIEW public.newcomer AS SELECT 1 AS id",
        "MATERIALIZED VIEW public.newcomer AS SELECT 1 AS id",
        "FUNCTION public.newcomer() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "SEQUENCE auth.newcomer",
        "SCHEMA newcomer",
    ],
)
def test_undocumented_object_is_detected(database: str, unknown: str) -> None:
    run(database, f"CREATE {unknown}")
    with psycopg.connect(database) as connection:
        populate(connection)
        cells = [cell for cell in all_cells(connection) if "newcomer" in cell.object_name]
        found = differences(connection, read_table(), cells)
        connection.rollback()
    assert any("docs/access.md has no line" in line for line in found)
