"""Everything works through PgBouncer in transaction mode, and leaves nothing in its sessions."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import NOW, Cli
from tests.integration.database import run
from tests.pooler.conftest import SESSIONS, pgbouncer
from usage_worker.errors import MigrationError, StoreUnavailableError
from usage_worker.maintenance.analytics import refresh
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.maintenance.purge import purge
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import Runner
from usage_worker.publisher import UsagePublisher
from usage_worker.service.resources import Resources
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population, generate_usage

if TYPE_CHECKING:
    from pathlib import Path

WORKERS, FLUSHES = 6, 40
LEFT = """
    SELECT (SELECT count(*) FROM pg_prepared_statements),
           (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')
"""
# PgBouncer gives each client its own values of the settings that are left out.
SETTINGS = """
    SELECT name, setting FROM pg_settings
     WHERE name NOT IN ('application_name', 'client_encoding', 'TimeZone', 'DateStyle')
"""
SHOWN = """
    SELECT current_setting('DateStyle') AS style, current_setting('TimeZone') AS zone,
           current_setting('search_path') AS path, current_setting('transaction_isolation') AS isolation
"""
OLD_DAY = """
    CREATE TABLE usage_events_20200101
        PARTITION OF usage_events FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')
"""


def sessions(url: str) -> list[tuple[dict[str, str], tuple[int, ...]]]:
    """Return settings and leftovers of all sessions of the pool, as its next clients find them."""
    found = []
    clients = [psycopg.connect(url, prepare_threshold=None) for _ in range(SESSIONS)]
    for client in clients:  # each keeps its session until the end of its transaction
        settings: dict[str, str] = dict(client.execute(SETTINGS).fetchall())
        left = client.execute(LEFT).fetchone()
        assert left is not None
        found.append((settings, left))
    for client in clients:
        client.close()
    return found


def is_drained(resources: Resources) -> bool:
    for shard in range(2):
        resources.flusher.flush(shard)
    return not any(resources.stream.backlog(shard).entries for shard in range(2))


def test_flushes_and_tasks_leave_nothing_in_sessions(database: str, pooled: str, redis_url: str) -> None:
    settings = Settings(DATABASE_URL=pooled, REDIS_URL=redis_url, pooled=True, reclaim_idle=0.5, unknown="create")
    with psycopg.connect(database) as direct:
        expected: dict[str, str] = dict(direct.execute(SETTINGS).fetchall())
    population, oracle = Population.of(20, 5), Oracle()
    workers = [Resources(settings) for _ in range(WORKERS)]
    store = workers[0].store
    store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)

    def work(resources: Resources) -> int:
        return sum(resources.flusher.flush(number % 2).intake.applied for number in range(FLUSHES))

    with UsagePublisher(redis_url, linger=0.01) as publisher, ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(work, resources) for resources in workers]
        for usage in generate_usage(population, 3_000, "production", 1):
            event = usage | {"event_id": uuid4(), "occurred_at": NOW}
            assert publisher.add(dict(event)) is not None
            oracle.add(event)
        assert publisher.flush()
        assert all(flushes.result(120) >= 0 for flushes in running)
    eventually(lambda: is_drained(workers[0]), 30)
    assert oracle.differences(store.rows(testing_query("counters"))) == []
    run(database, OLD_DAY)
    report = manage_partitions(store, settings)
    assert (report.failed, report.dropped) == ({}, ["usage_events_20200101"])
    refresh(store)
    run(database, "UPDATE user_agents SET total_cost_usd = 0 WHERE user_id = %s", population.users[0])
    assert reconcile(store, settings, repair=True).differences
    assert reconcile(store, settings).differences == []
    run(
        database,
        "UPDATE user_agents SET deleted_at = now() - interval '40 days' WHERE user_id = %s",
        population.users[1],
    )
    assert purge(store, timedelta(days=30)).purged > 0
    for found, left in sessions(pooled):
        assert {name: value for name, value in found.items() if expected.get(name, value) != value} == {}
        assert left == (0, 0, 0)
    for resources in workers:
        resources.close()


def test_hostile_database_behind_pooler(database: str, redis_url: str) -> None:
    name = database.partition("?")[0].rpartition("/")[2]
    for setting in ("DateStyle = 'German'", "TimeZone = 'Asia/Kathmandu'", "search_path = 'nowhere'"):
        run(database, f"ALTER DATABASE {name} SET {setting}")
    run(database, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    with pgbouncer(database) as url, Store(url, pooled=True) as store:
        (row,) = store.rows(SHOWN)
        assert tuple(row.values()) == ("ISO, MDY", "UTC", "public", "read committed")
        store.ping()


def test_commands_behind_pooler(database: str, pooled: str, redis_url: str, tmp_path: Path) -> None:
    cli = Cli(tmp_path, DATABASE_URL=pooled, REDIS_URL=redis_url, USAGE_POOLED="1")
    tasks = ("run partitions", "run purge", "run reconcile", "run refresh")
    for command in ("drain", *tasks, "report --json", "schedule", "metrics"):
        done = cli.run(*command.split())
        assert done.returncode == 0, (command, done.stderr)
    checks = json.loads(cli.run("status", "--json").stdout)["checks"]
    assert {checks[name] for name in ("postgresql", "schema", "partitions")} == {"ok"}, cli.run("status").stdout
    assert "migrations need sessions of their own" in cli.error_line("migrate up")
    assert {left for _, left in sessions(pooled)} == {(0, 0, 0)}


def test_pooler_that_nobody_named_is_recognised(database: str, pooled: str) -> None:
    with pytest.raises(MigrationError, match="migrations need sessions of their own"):
        Runner(pooled).up()
    with Store(pooled) as store, pytest.raises(StoreUnavailableError, match="USAGE_POOLED=1"):
        store.ping()
    # Where it ignores what it does not understand, two connections with the same session give it away.
    refused = pytest.raises(MigrationError, match="migrations need sessions of their own")
    with pgbouncer(database, ignore_startup_parameters="options") as url, refused:
        Runner(url).up()
    with pgbouncer(database, ignore_startup_parameters="options", pool_mode="session") as url:
        assert Runner(url).up() == []
