"""4.3.0 → 4.2.0 → 4.3.0: an application's own ids and the namespace are kept, and hidden meanwhile."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.integration.database import run, schema
from usage_worker.migrate import Kept, Runner

ROWS = "SELECT * FROM public.usage_external_ids ORDER BY kind, id"
NAMESPACE = "SELECT * FROM public.usage_id_namespace"
FILLED = {
    "usage_external_ids": """
        INSERT INTO public.usage_external_ids (kind, id, external_id)
        SELECT 'user', it, 'Zoë ' || it FROM gen_random_uuid() AS it
    """,
    "usage_id_namespace": "INSERT INTO public.usage_id_namespace (namespace) VALUES (gen_random_uuid())",
}


def rows(database: str) -> list[tuple[Any, ...]]:
    return run(database, ROWS) + run(database, NAMESPACE)


def test_rows_are_kept_for_next_upgrade(database: str) -> None:
    for _ in range(2):
        run(database, FILLED["usage_external_ids"])
    run(database, FILLED["usage_id_namespace"])
    runner, at_latest, before = Runner(database), schema(database), rows(database)
    assert runner.kept_by_down("4.2.0") == [Kept("usage_external_ids", 2, False), Kept("usage_id_namespace", 1, False)]
    runner.down("4.2.0")
    assert runner.verify() == []
    with psycopg.connect(database) as connection:
        for role in ("anon", "authenticated", "service_role", "usage_ingest"):
            for table in ("usage_external_ids", "usage_id_namespace"):
                may = "SELECT has_table_privilege(%s, %s, 'SELECT, INSERT, UPDATE, DELETE')"
                assert connection.execute(may, [role, f"public.{table}_kept_4_3_0"]).fetchone() == (False,)
    runner.up()
    assert (schema(database), runner.verify(), rows(database)) == (at_latest, [], before)
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(
            database,
            f"INSERT INTO public.usage_external_ids SELECT kind, gen_random_uuid(), external_id FROM ({ROWS}) AS kept",
        )


@pytest.mark.parametrize("kept", [*FILLED, ""])
def test_tables_without_rows_are_dropped(database: str, kept: str) -> None:
    if kept:
        run(database, FILLED[kept])
    runner, at_latest = Runner(database), schema(database)
    runner.down("4.2.0")
    tables = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname ~ '^usage_(external_ids|id_namespace)'"
    assert run(database, tables) == ([(f"{kept}_kept_4_3_0",)] if kept else [])
    runner.up()
    assert (schema(database), runner.verify()) == (at_latest, [])


def test_namespace_has_one_row(database: str) -> None:
    insert = "INSERT INTO public.usage_id_namespace (is_only, namespace) VALUES (%s, gen_random_uuid())"
    run(database, insert, True)
    for is_only, error in ((True, psycopg.errors.UniqueViolation), (False, psycopg.errors.CheckViolation)):
        with pytest.raises(error):
            run(database, insert, is_only)
