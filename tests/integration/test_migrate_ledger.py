"""The upgrade to the ledger while clients of 3.0.0 keep working: exact, in small chunks, also after a kill."""

from __future__ import annotations

import random
import shutil
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import copy_up_to, interrupted, run, schema, traffic
from tests.integration.interruptions import chosen
from usage_worker.errors import MigrationError, StoreUnavailableError
from usage_worker.migrate import Runner, discover
from usage_worker.migrate.connection import WORK_NAME
from usage_worker.store.connection import Store
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BALANCE = next(migration for migration in discover() if migration.name == "usage_opening_balance")

TRACK = "SELECT public.track_agent_usage(%s, %s, true, 7, 0.25, %s)"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a copy of the migrations up to the opening balance, which a test may change."""
    return copy_up_to(BALANCE, tmp_path / "migrations")


def seed(url: str, users: int, agents: int) -> None:
    """Add pairs as 3.0.0 leaves them: one in ten never used, half of the others with a latency."""
    run(
        url,
        f"""
        INSERT INTO auth.users (email) SELECT 'u' FROM generate_series(1, {users});
        INSERT INTO public.agents (name) SELECT 'a' FROM generate_series(1, {agents});
        INSERT INTO public.user_agents (user_id, agent_id, usage_count, message_count, conversation_count,
                                        success_count, error_count, total_tokens_used, total_cost_usd,
                                        avg_response_time_ms)
        SELECT user_id, agent_id, n, 2 * n, n / 3, n - n / 5, n / 5, 100 * n, n * 0.0000000001,
               CASE WHEN n % 2 = 1 THEN 10 * n END
          FROM (SELECT u.id AS user_id, a.id AS agent_id, row_number() OVER () % 10 AS n
                  FROM auth.users u, public.agents a) AS pair
        """,
    )


def used(url: str) -> int:
    return int(run(url, "SELECT count(*) FROM public.user_agents WHERE usage_count > 0")[0][0])


def check_balanced(url: str) -> None:
    """Assert that counters are the sums of the days, and that averages follow from the totals."""
    store = Store(url)
    try:
        assert store.rows(testing_query("unbalanced")) == []
    finally:
        store.close()
    wrong = """
        SELECT * FROM public.user_agents
         WHERE avg_response_time_ms IS DISTINCT FROM
               round(response_time_total_ms::numeric / nullif(response_time_samples, 0))
    """
    assert run(url, wrong) == []


def insert_before(file: Path, part: str, statement: str) -> None:
    text = file.read_text()
    assert text.count(part) == 1
    file.write_text(text.replace(part, f"{statement};\n{part}"))


def test_earlier_counts_become_opening_balance(empty_database: str, runner: Runner) -> None:
    seed(empty_database, 30, 10)
    before = run(
        empty_database,
        """
        SELECT user_id, agent_id, usage_count, message_count, conversation_count, success_count, error_count,
               total_tokens_used, total_cost_usd, coalesce(avg_response_time_ms, 0)::bigint * usage_count,
               CASE WHEN avg_response_time_ms IS NULL THEN 0 ELSE usage_count END, date '1970-01-01'
          FROM public.user_agents WHERE usage_count > 0 ORDER BY user_id, agent_id
        """,
    )
    averages = "SELECT id, avg_response_time_ms FROM public.user_agents ORDER BY id"
    averages_before = run(empty_database, averages)
    runner.up()
    after = run(
        empty_database,
        """
        SELECT user_id, agent_id, usage_count, message_count, conversation_count, success_count, error_count,
               total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples, day
          FROM public.usage_daily ORDER BY user_id, agent_id
        """,
    )
    assert after == before
    assert run(empty_database, averages) == averages_before
    assert runner.verify() == []
    check_balanced(empty_database)


def test_event_before_opening_balance_is_added(empty_database: str, runner: Runner, files: Path) -> None:
    seed(empty_database, 1, 10)
    pairs = "SELECT user_id, agent_id FROM public.user_agents WHERE usage_count = 3"
    with_latency = run(empty_database, pairs)[0]
    again = run(empty_database, pairs.replace("3", "5"))[0]
    without = run(empty_database, pairs.replace("3", "4"))[0]
    unused = run(empty_database, pairs.replace("3", "0"))[0]
    file = files / BALANCE.up.name
    sound = file.read_text()
    insert_before(file, "DO $balance$", "SELECT 1 / 0")
    with pytest.raises(MigrationError, match="division by zero"):
        Runner(empty_database, files).up()
    for pair, *latencies in (
        (with_latency, 1030, None),  # had 3 of 30 ms
        (again, None, 1250),  # had 5 of 50 ms
        (without, 100, 200),
        (unused, 40),
    ):
        for latency in latencies:
            run(empty_database, TRACK, *pair, latency)
    # A call of 3.0.0's function that began before the migration and commits during it.
    older = "UPDATE public.user_agents SET usage_count = usage_count + 1 WHERE (user_id, agent_id) = (%s, %s)"
    run(empty_database, older, *with_latency)
    # Clients of 3.0.0 may write the counters themselves.
    run(empty_database, "UPDATE public.user_agents SET total_tokens_used = 5 WHERE usage_count = 8")
    file.write_text(sound)
    runner.up()
    check_balanced(empty_database)
    values = """
        SELECT usage_count, response_time_total_ms, response_time_samples, avg_response_time_ms
          FROM public.user_agents WHERE (user_id, agent_id) = (%s, %s)
    """
    assert run(empty_database, values, *with_latency) == [(6, 1150, 5, 230)]
    assert run(empty_database, values, *again) == [(7, 1500, 6, 250)]
    assert run(empty_database, values, *without) == [(6, 300, 2, 150)]
    assert run(empty_database, values, *unused) == [(1, 40, 1, 40)]


def test_events_are_counted_while_ledger_is_created(empty_database: str, runner: Runner) -> None:
    seed(empty_database, 200, 100)
    pairs = run(
        empty_database,
        "SELECT user_id, agent_id, avg_response_time_ms, usage_count, total_tokens_used, total_cost_usd"
        " FROM public.user_agents WHERE avg_response_time_ms IS NOT NULL LIMIT 300",
    )
    calls: list[list[int]] = [[] for _ in range(4)]
    # A pair that is used all the time, and pairs without a row.
    popular = 0

    def track(done: list[int]) -> Callable[[threading.Event], None]:
        def client(over: threading.Event) -> None:
            chosen = random.Random(id(done))
            with psycopg.connect(empty_database, autocommit=True) as connection:
                while not over.is_set():
                    number = chosen.choice((popular, chosen.randrange(len(pairs))))
                    connection.execute(TRACK, pairs[number][:3])
                    done.append(number)

        return client

    with traffic(*map(track, calls)):
        eventually(lambda: all(calls))
        runner.up()
        before = sum(map(len, calls))
        eventually(lambda: sum(map(len, calls)) > before + 100)
    check_balanced(empty_database)
    made = Counter(chain(*calls))
    expected = {
        (user_id, agent_id): (
            uses,
            average * uses,
            uses,
            average,
            tokens + 7 * made[number],
            cost + Decimal(made[number]) / 4,
        )
        for number, (user_id, agent_id, average, count, tokens, cost) in enumerate(pairs)
        for uses in [count + made[number]]
    }
    found = {
        row[:2]: row[2:]
        for row in run(
            empty_database,
            "SELECT user_id, agent_id, usage_count, response_time_total_ms, response_time_samples,"
            " avg_response_time_ms, total_tokens_used, total_cost_usd FROM public.user_agents",
        )
    }
    assert {pair: found[pair] for pair in expected} == expected


def test_rows_of_older_transaction_get_opening_balance(empty_database: str, runner: Runner) -> None:
    seed(empty_database, 1, 1)
    user_id = run(empty_database, "INSERT INTO auth.users (email) VALUES ('new') RETURNING id")[0][0]
    agent_id = run(empty_database, "SELECT id FROM public.agents")[0][0]
    journal = "SELECT to_regprocedure('public.usage_events_ensure_day(date)')"
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(empty_database) as older:
            # It began to call the old function, and writes only after the new one was created.
            older.execute("SELECT 1")
            migrating = pool.submit(runner.up)
            definer = "SELECT prosecdef FROM pg_proc WHERE proname = 'track_agent_usage'"
            waits = "SELECT true FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
            eventually(lambda: run(empty_database, definer) == [(True,)])
            older.execute(
                "INSERT INTO public.user_agents (user_id, agent_id, usage_count, message_count) VALUES (%s, %s, 1, 1)",
                [user_id, agent_id],
            )
            eventually(lambda: run(empty_database, waits))
            assert not migrating.done()
        migrating.result(30)
    assert run(empty_database, journal) != [(None,)]
    check_balanced(empty_database)


def test_killed_backfill_adds_nothing_twice(empty_database: str, runner: Runner, files: Path) -> None:
    seed(empty_database, 200, 100)
    file = files / BALANCE.up.name
    sound = file.read_text()
    # So that it does not end before it is killed.
    insert_before(file, "        v_chunk := ARRAY(SELECT id ", "        PERFORM pg_catalog.pg_sleep(0.2)")
    opened = "SELECT count(*) FROM public.usage_daily"
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND datname = %s"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(empty_database, autocommit=True) as connection:
        migrating = pool.submit(Runner(empty_database, files).up)
        eventually(lambda: connection.execute("SELECT to_regclass('public.usage_daily')").fetchone() != (None,))
        eventually(lambda: connection.execute(opened).fetchone() != (0,))
        connection.execute(kill, [WORK_NAME, connection.info.dbname])
        with pytest.raises(StoreUnavailableError):
            migrating.result(30)
    assert 0 < run(empty_database, opened)[0][0] < used(empty_database)
    file.write_text(sound)
    runner.up()
    assert run(empty_database, opened)[0][0] == used(empty_database)
    assert runner.verify() == []
    check_balanced(empty_database)


def test_resumes_after_any_interruption(empty_database: str, runner: Runner, files: Path) -> None:
    seed(empty_database, 10, 10)
    at_3 = schema(empty_database)
    runner.up()
    at_4 = schema(empty_database)
    runner.down("3.0.0")
    assert schema(empty_database) == at_3
    places: list[tuple[Path, str]] = []
    for migration in discover(files):
        if migration.version == BALANCE.version:
            broken_texts = [broken for _, broken in interrupted(migration.up_sql)]
            places += [(migration.up, it) for it in broken_texts[-1 if migration.transactional else 0 :]]
    assert len(places) > 10
    for stop, (file, broken) in enumerate(chosen(places)):
        text = file.read_text()
        file.write_text(broken)
        with pytest.raises(MigrationError, match="division by zero"):
            Runner(empty_database, files).up()
        file.write_text(text)
        if stop % 2:
            runner.up()
            assert schema(empty_database) == at_4
            check_balanced(empty_database)
        runner.down("3.0.0")
        assert schema(empty_database) == at_3


def test_locked_row_blocks_no_other_client(empty_database: str, runner: Runner, files: Path) -> None:
    seed(empty_database, 20, 100)
    row_id = run(empty_database, "SELECT id FROM public.user_agents WHERE usage_count = 4 ORDER BY id LIMIT 1")[0][0]
    insert_before(files / BALANCE.up.name, "DO $balance$", "SELECT pg_advisory_xact_lock(1)")
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted"
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(empty_database, autocommit=True) as holder:
            holder.execute("SELECT pg_advisory_lock(1)")
            migrating = pool.submit(Runner(empty_database, files).up)
            eventually(lambda: run(empty_database, waiting))
            with holder.transaction():
                # Clients of 3.0.0 may write the counters themselves.
                holder.execute("UPDATE public.user_agents SET usage_count = usage_count + 1 WHERE id = %s", [row_id])
                holder.execute("SELECT pg_advisory_unlock(1)")
                opened = "SELECT count(*) FROM public.usage_daily"
                eventually(lambda: run(empty_database, opened)[0][0] == used(empty_database) - 1)
                others = "UPDATE public.user_agents SET notes = 'free' WHERE id <> %s"
                with psycopg.connect(empty_database, options="-c lock_timeout=1s") as client:
                    client.execute(others, [row_id])
        migrating.result(30)
    check_balanced(empty_database)


def test_concurrent_first_calls_create_one_partition(empty_database: str, runner: Runner) -> None:
    runner.up()
    first, days, callers = date(2030, 1, 1), 20, 6
    together = threading.Barrier(callers)

    def call() -> None:
        with psycopg.connect(empty_database, autocommit=True) as connection:
            for number in range(days):
                together.wait(30)
                connection.execute("SELECT public.usage_events_ensure_day(%s)", [first + timedelta(days=number)])

    with ThreadPoolExecutor(callers) as pool:
        for future in [pool.submit(call) for _ in range(callers)]:
            future.result()
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhrelid::regclass::text LIKE 'usage_events_2030____'"
    assert run(empty_database, partitions) == [(days,)]


def test_default_privileges_of_platform_change_nothing(empty_database: str, runner: Runner) -> None:
    everybody = "TO anon, authenticated, service_role"
    run(empty_database, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES {everybody}")
    run(empty_database, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS {everybody}")
    runner.up()
    assert runner.verify() == []
    partitions = """
        SELECT DISTINCT has_table_privilege('anon', c.oid, 'SELECT'),
               has_table_privilege('authenticated', c.oid, 'SELECT'),
               has_table_privilege('service_role', c.oid, 'SELECT'),
               has_table_privilege('service_role', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
          FROM pg_class AS c WHERE relispartition AND relkind = 'r'
    """
    assert run(empty_database, partitions) == [(False, False, False, False)]


@pytest.mark.size
def test_backfill_blocks_no_client(empty_database: str, tmp_path: Path, files: Path) -> None:
    """The longest wait of a client is a small part of the migration's time; no absolute time is asserted."""
    # Inserting the rows before the indexes exist is faster.
    few = tmp_path / "few"
    shutil.copytree(files, few)
    for migration in discover(few):
        if migration.number > 3:
            migration.up.unlink()
    Runner(empty_database, few).up("3.0.0")
    seed(empty_database, 1500, 100)
    runner = Runner(empty_database, files)
    runner.up("3.0.0")
    ids = [row[0] for row in run(empty_database, "SELECT id FROM public.user_agents TABLESAMPLE SYSTEM (3)")]
    waits: dict[str, list[float]] = {"read": [], "write": []}
    migrating = threading.Event()

    def client(kind: str, statement: str) -> Callable[[threading.Event], None]:
        def act(over: threading.Event) -> None:
            picks = random.Random(kind)
            with psycopg.connect(empty_database, autocommit=True) as connection:
                while not over.is_set():
                    began = time.perf_counter()
                    connection.execute(statement, [picks.choice(ids)])
                    if migrating.is_set():
                        waits[kind].append(time.perf_counter() - began)
                    time.sleep(0.001)

        return act

    with traffic(
        client("read", "SELECT usage_count FROM public.user_agents_with_details WHERE id = %s"),
        client("write", "UPDATE public.user_agents SET usage_count = usage_count + 1 WHERE id = %s"),
    ):
        migrating.set()
        began = time.perf_counter()
        runner.up()
        took = time.perf_counter() - began
        migrating.clear()
    longest = {kind: max(values) for kind, values in waits.items()}
    sys.stdout.write(
        f"\n150,000 rows in {took:.1f} s; longest wait of a reader {1000 * longest['read']:.0f} ms,"
        f" of a writer {1000 * longest['write']:.0f} ms ({len(waits['write']):,} writes)\n"
    )
    assert max(longest.values()) < took / 3
    assert run(empty_database, "SELECT count(*) FROM public.usage_daily")[0][0] >= 135_000
