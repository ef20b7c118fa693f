"""The upgrade to shares: created from the columns while clients of 3.0.0 keep working; and its rollback."""

from __future__ import annotations

import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import copy_up_to, interrupted, run, schema
from tests.integration.interruptions import chosen
from tests.integration.users import Users, add_users, session_as
from usage_worker.errors import MigrationError, ObstacleError
from usage_worker.migrate import Runner, discover

if TYPE_CHECKING:
    from pathlib import Path

SHARES = next(migration for migration in discover() if migration.name == "user_agent_shares_columns")
TARGETS = """
    SELECT user_agent_id, shared_with_user, shared_with_team, permission, expires_at IS NOT NULL
      FROM public.user_agent_shares ORDER BY 1, 2, 3
"""
# The shares that the columns of 3.0.0 grant, one per row.
GRANTED = """
    SELECT * FROM (
        SELECT id, unnest(shared_with), NULL::uuid FROM public.user_agents WHERE is_shared
        UNION SELECT id, NULL, team_id FROM public.user_agents WHERE is_shared
    ) AS granted (id, user_id, team_id) WHERE num_nonnulls(user_id, team_id) = 1
"""
SHARED = "SELECT user_agent_id, shared_with_user, shared_with_team FROM public.user_agent_shares"
COLUMNS = "SELECT is_shared, shared_with, team_id FROM public.user_agents WHERE id = %s"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a copy of the migrations up to the shares, which a test may change."""
    return copy_up_to(SHARES, tmp_path / "migrations")


def seed(url: str, rows: int) -> None:
    """Add rows of every kind: shared with users, a team, both or nobody, and not shared although they name users."""
    run(
        url,
        f"""
        WITH a AS (INSERT INTO public.agents (name) VALUES ('a') RETURNING id),
            u AS (INSERT INTO auth.users (email) SELECT 'u' FROM generate_series(1, {rows}) RETURNING id)
        INSERT INTO public.user_agents (user_id, agent_id, is_shared, shared_with, team_id)
        SELECT u.id, a.id, n % 3 > 0,
            CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN '{{}}' WHEN 2 THEN ARRAY[u.id, NULL, u.id] ELSE ARRAY[
                gen_random_uuid(), u.id] END,
            CASE WHEN n % 2 = 0 THEN gen_random_uuid() END
          FROM (SELECT id, row_number() OVER () AS n FROM u) AS u, a
        """,
    )


def check_in_step(url: str) -> None:
    assert set(run(url, SHARED)) == set(run(url, GRANTED))


def test_shares_are_created_from_columns(empty_database: str, runner: Runner) -> None:
    seed(empty_database, 1300)
    columns = "SELECT id, is_shared, shared_with, team_id, updated_at FROM public.user_agents ORDER BY id"
    before = run(empty_database, columns)
    runner.up()
    check_in_step(empty_database)
    assert len(run(empty_database, SHARED)) > 1000
    kinds = "SELECT DISTINCT permission, expires_at, created_by = owner_id FROM public.user_agent_shares"
    assert run(empty_database, kinds) == [("view", None, True)]
    assert run(empty_database, columns) == before
    # The migration is not recorded as sharing.
    assert run(empty_database, "SELECT FROM public.user_agent_history") == []
    assert runner.verify() == []
    runner.down("3.0.0")
    assert run(empty_database, columns) == before
    runner.up()
    check_in_step(empty_database)


def test_writes_of_clients_during_migration_are_followed(empty_database: str, runner: Runner) -> None:
    seed(empty_database, 3000)
    ids = [row[0] for row in run(empty_database, "SELECT id FROM public.user_agents LIMIT 600")]
    over = threading.Event()

    def client(number: int) -> int:
        chosen, writes = random.Random(number), 0
        with psycopg.connect(empty_database, autocommit=True) as connection:
            while not over.is_set():
                connection.execute(
                    "UPDATE public.user_agents SET is_shared = %s, shared_with = %s, team_id = %s WHERE id = %s",
                    [
                        chosen.random() < 0.7,
                        [uuid.UUID(int=chosen.randrange(4)) for _ in range(chosen.randrange(4))],
                        chosen.choice([None, uuid.UUID(int=chosen.randrange(4))]),
                        chosen.choice(ids),
                    ],
                )
                writes += 1
        return writes

    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(client, number) for number in range(3)]
        try:
            runner.up()
        finally:
            over.set()
        assert all(client.result() for client in clients)
    check_in_step(empty_database)


def test_locked_row_blocks_no_other_client(empty_database: str, runner: Runner, files: Path) -> None:
    seed(empty_database, 1200)
    held = run(empty_database, "SELECT id FROM public.user_agents WHERE is_shared AND team_id IS NOT NULL LIMIT 1")[0][
        0
    ]
    file = files / SHARES.up.name
    text = file.read_text()
    assert text.count("DO $take$") == 1
    file.write_text(text.replace("DO $take$", "SELECT pg_advisory_xact_lock(1);\nDO $take$"))
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted"
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(empty_database, autocommit=True) as holder:
            holder.execute("SELECT pg_advisory_lock(1)")
            migrating = pool.submit(Runner(empty_database, files).up)
            eventually(lambda: run(empty_database, waiting))
            with holder.transaction():
                holder.execute("UPDATE public.user_agents SET shared_with = NULL, team_id = NULL WHERE id = %s", [held])
                holder.execute("SELECT pg_advisory_unlock(1)")
                others = f"SELECT count(*) FROM ({GRANTED}) AS granted WHERE id <> '{held}'"
                expected = run(empty_database, others)[0][0]
                eventually(lambda: len(run(empty_database, SHARED)) == expected)
                with psycopg.connect(empty_database, options="-c lock_timeout=1s") as client:
                    client.execute("UPDATE public.user_agents SET notes = 'free' WHERE id <> %s", [held])
        migrating.result(30)
    check_in_step(empty_database)


def test_resumes_after_any_interruption(empty_database: str, runner: Runner, files: Path) -> None:
    seed(empty_database, 30)
    at_3 = schema(empty_database)
    runner.up()
    at_4 = schema(empty_database)
    runner.down("3.0.0")
    assert schema(empty_database) == at_3
    file = files / SHARES.up.name
    text = file.read_text()
    for stop, (_, broken) in enumerate(chosen([*interrupted(text)][1::2])):
        file.write_text(broken)
        with pytest.raises(MigrationError, match="division by zero"):
            Runner(empty_database, files).up()
        file.write_text(text)
        if stop % 2:
            runner.down("3.0.0")
            assert schema(empty_database) == at_3
        runner.up()
        assert schema(empty_database) == at_4
        check_in_step(empty_database)
        runner.down("3.0.0")


def test_rollback_of_a_half_made_upgrade_leaves_no_expiring_share_for_ever(
    empty_database: str, runner: Runner, files: Path
) -> None:
    users = add_users(empty_database)
    runner.up()
    limited = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, expires_at) VALUES (%s, %s, %s)"
    run(empty_database, limited, users.row, users.dan, "2999-01-01")
    runner.down("3.0.0")
    file = files / SHARES.up.name
    file.write_text(file.read_text().replace("DO $swap$\nBEGIN", "DO $swap$\nBEGIN\n    PERFORM 1 / 0;"))
    with pytest.raises(MigrationError, match="division by zero"):
        Runner(empty_database, files).up()
    with pytest.raises(ObstacleError, match="may have copied shares that expire: "):
        runner.down("3.0.0")
    runner.up()
    runner.down("3.0.0")
    assert run(empty_database, COLUMNS, users.row) == [(True, [users.bob], users.team)]


@pytest.mark.parametrize("version", ["3.0.0", "2.0.0"])
def test_down_and_up_keep_shares(empty_database: str, runner: Runner, version: str) -> None:
    users = add_users(empty_database)
    runner.up()
    run(
        empty_database,
        """
        UPDATE public.user_agent_shares SET permission = 'edit' WHERE shared_with_user IS NOT NULL;
        INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, shared_with_team, permission, expires_at)
        SELECT id, NULL, gen_random_uuid(), 'use', NULL FROM public.user_agents
        """,
    )
    limited = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, expires_at) VALUES (%s, %s, %s)"
    run(empty_database, limited, users.row, users.dan, "2999-01-01")
    before = run(empty_database, TARGETS)
    assert len(before) == 4
    columns = run(empty_database, COLUMNS, users.row)
    assert columns == [(True, [users.bob, users.dan], users.team)]
    runner.down(version)
    if version == "3.0.0":
        # 3.0.0 would never end Dan's share, which expires.
        assert run(empty_database, COLUMNS, users.row) == [(True, [users.bob], users.team)]
    runner.up()
    assert run(empty_database, TARGETS) == before
    assert run(empty_database, COLUMNS, users.row) == columns
    assert runner.verify() == []
    assert run(empty_database, "SELECT relname FROM pg_class WHERE relname LIKE '%kept%'") == []


def test_shares_ended_in_3_0_0_stay_ended(empty_database: str, runner: Runner) -> None:
    users = add_users(empty_database)
    runner.up()
    give = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_team) VALUES (%s, gen_random_uuid())"
    run(empty_database, give, users.row)
    runner.down("3.0.0")
    with session_as(empty_database, "authenticated", users.ann) as session:
        session.execute("UPDATE public.user_agents SET team_id = NULL, shared_with = %s", [[users.bob, users.dan]])
    runner.up()
    assert [row[1:] for row in run(empty_database, TARGETS)] == [
        (user, None, "view", False) for user in sorted([users.bob, users.dan])
    ]
    runner.down("3.0.0")
    with session_as(empty_database, "authenticated", users.ann) as session:
        session.execute("DELETE FROM public.user_agents")
    runner.up()
    assert run(empty_database, TARGETS) == []


def test_shares_of_3_0_0_keep_their_effect(empty_database: str, runner: Runner) -> None:
    users: Users = add_users(empty_database)

    def seen() -> list[int]:
        found = []
        for user in (users.ann, users.bob, users.cid, users.dan):
            with session_as(empty_database, "authenticated", user) as session:
                found.append(len(session.execute("SELECT FROM public.user_agents").fetchall()))
        return found

    assert seen() == [1, 1, 1, 0]
    runner.up()
    assert seen() == [1, 1, 1, 0]
    runner.down("3.0.0")
    assert seen() == [1, 1, 1, 0]
