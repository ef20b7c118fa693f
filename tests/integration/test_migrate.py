"""Upgrades and rollbacks, and clients that keep working meanwhile."""

from __future__ import annotations

import subprocess
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import add_pair, run, schema
from usage_worker.errors import MigrationError
from usage_worker.migrate import EMPTY, Runner, discover, latest_version, schema_version
from usage_worker.migrate.connection import LOCK_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Postgres

VERSIONS = list(dict.fromkeys(migration.version for migration in discover()))


def test_up_verifies_and_down_restores_previous_version(empty_database: str) -> None:
    runner = Runner(empty_database)
    seen = {EMPTY: schema(empty_database)}
    for version in VERSIONS:
        runner.up(version)
        assert schema_version(empty_database) == version
        assert runner.verify() == []
        seen[version] = schema(empty_database)
    assert latest_version() == VERSIONS[-1]
    for version in [*reversed(VERSIONS[:-1]), EMPTY]:
        runner.down(version)
        assert schema_version(empty_database) == (None if version == EMPTY else version)
        assert schema(empty_database) == seen[version]


def test_one_jump_equals_single_steps(empty_database: str) -> None:
    runner = Runner(empty_database)
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        runner.up(version)
    stepwise = schema(empty_database)
    runner.down("1.0.0")
    runner.up("3.0.0")
    assert schema(empty_database) == stepwise


def test_values_survive_up_to_2_and_down(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    changed, _untouched, deleted = (add_pair(empty_database) for _ in range(3))
    run(
        empty_database,
        """
        UPDATE public.user_agents SET
            total_cost_usd = 0.0000000001, user_rating = 4.25, custom_temperature = 0.70,
            first_used_at = '2024-02-29 23:59:59.999999+00', deleted_at = 'infinity',
            tags = '{a,"b c",NULL}', shared_with = ARRAY[gen_random_uuid(), gen_random_uuid()],
            settings = 'null', ui_config = '{"n": 1.50, "deep": [1, {"x": null}]}',
            notes = E'line\\n''quoted''', message_count = 9223372036854775807,
            team_id = gen_random_uuid(), is_shared = true, source = 'store'
        WHERE id = %s
        """,
        changed,
    )
    run(
        empty_database,
        "INSERT INTO public.user_role_assignments SELECT id, gen_random_uuid() FROM auth.users",
    )
    values = "SELECT u::text FROM public.user_agents AS u ORDER BY id"
    members = "SELECT m::text FROM public.user_role_assignments AS m ORDER BY user_id"
    kept_members = run(empty_database, members)
    run(empty_database, "DELETE FROM public.user_agents WHERE id = %s", deleted)
    before = run(empty_database, values)

    runner.down("2.0.0")
    assert run(
        empty_database,
        "SELECT has_table_privilege('authenticated', oid, 'SELECT'), relrowsecurity FROM pg_class"
        " WHERE relname = 'user_agents_kept_3_0_0'",
    ) == [(False, True)]
    added_row_id = add_pair(empty_database)
    runner.up("3.0.0")

    run(empty_database, "DELETE FROM public.user_agents WHERE id = %s", added_row_id)
    assert run(empty_database, values) == before
    assert run(empty_database, members) == kept_members
    assert runner.verify() == []
    assert run(empty_database, "SELECT relname FROM pg_class WHERE relname LIKE '%kept%'") == []


def test_writes_while_columns_are_set_aside_are_kept(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    ids = [add_pair(empty_database) for _ in range(20)]
    # Copying must take longer than a few writes.
    run(
        empty_database,
        "INSERT INTO auth.users (email) SELECT 'many' FROM generate_series(1, 20000);"
        "INSERT INTO public.user_agents (user_id, agent_id)"
        " SELECT u.id, a.id FROM auth.users AS u, (SELECT id FROM public.agents LIMIT 1) AS a"
        " WHERE email = 'many'",
    )
    committed: dict[str, str] = {}

    def write_until_the_column_is_gone() -> None:
        with psycopg.connect(empty_database, autocommit=True) as connection:
            while True:
                for row_id in ids:
                    note = uuid.uuid4().hex
                    try:
                        connection.execute("UPDATE public.user_agents SET notes = %s WHERE id = %s", [note, row_id])
                    except psycopg.errors.UndefinedColumn:
                        return
                    committed[row_id] = note

    writer = threading.Thread(target=write_until_the_column_is_gone)
    writer.start()
    eventually(lambda: len(committed) == len(ids))
    runner.down("2.0.0")
    writer.join()
    runner.up("3.0.0")
    notes = run(empty_database, "SELECT id::text, notes FROM public.user_agents WHERE notes IS NOT NULL")
    assert dict(notes) == committed


def test_blocked_migration_yields_to_writer_and_retries(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    row_id = add_pair(empty_database)
    retried = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(empty_database) as writer:
            writer.execute("UPDATE public.user_agents SET usage_count = 1 WHERE id = %s", [row_id])
            run_up = pool.submit(
                runner.up, "3.0.0", on_step=lambda step: retried.set() if step.event == "retrying" else None
            )
            assert retried.wait(120)
        run_up.result(30)
    assert runner.verify() == []


def test_concurrent_runners_migrate_once(empty_database: str) -> None:
    def migrate(_: int) -> list[str]:
        return [migration.label for migration in Runner(empty_database).up("3.0.0")]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(migrate, range(4)))
    assert sorted(done) == [[], [], [], [m.label for m in discover() if m.version <= "3.0.0"]]
    assert Runner(empty_database).verify() == []


def test_runner_can_refuse_to_wait(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        with pytest.raises(MigrationError, match="another migration of this database is running"):
            Runner(empty_database).up(wait=False)


def test_psql_runs_migration_files(empty_database: str, postgres: Postgres) -> None:
    def psql(file: Path) -> None:
        options = ["-qX", "-v", "ON_ERROR_STOP=1", "-d", empty_database, "-f", str(file)]
        subprocess.run([str(postgres.bin_dir / "psql"), *options], check=True, capture_output=True)

    for migration in discover():
        psql(migration.up)
    by_psql = schema(empty_database)
    for migration in reversed(discover()):
        psql(migration.up.with_name(f"{migration.label}.down.sql"))
    Runner(empty_database).up()
    assert schema(empty_database) == by_psql
