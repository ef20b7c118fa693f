"""A role, a database and an environment that set everything otherwise: everything runs and counts right."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.integration.commands import NOW
from tests.integration.conftest import IngestHarness
from usage_worker.errors import StatementCancelledError
from usage_worker.maintenance.analytics import refresh
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.maintenance.purge import purge
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import Runner
from usage_worker.store.connection import Store
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from usage_worker.service.resources import Resources

HOSTILE = {
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "search_path": "evil, pg_catalog",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "exit_on_error": "on",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "session_replication_role": "replica",
    "usage_worker.action": "purge",
    "lock_timeout": "1500ms",
    "synchronous_commit": "off",
    "client_min_messages": "error",
    "plan_cache_mode": "force_generic_plan",
    "xmlbinary": "hex",
}
DECOYS = """
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2001-01-01 00:00Z' $$;
    CREATE FUNCTION evil.round(numeric) RETURNS numeric LANGUAGE sql AS $$ SELECT 666.0 $$;
    CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'no' $$;
    CREATE TABLE evil.user_agents (id int);
    CREATE TABLE evil.usage_events (id int);
    GRANT USAGE ON SCHEMA evil TO PUBLIC
"""


@contextmanager
def hostile_to(url: str, kind: str) -> Iterator[str]:
    """Set everything otherwise, for the database or for a new owner of everything; yield the URL to use."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(DECOYS)
        database = sql.Identifier(connection.info.dbname)
        role = sql.Identifier(f"usage_test_{uuid4().hex[:12]}")
        target = sql.SQL("DATABASE {}").format(database)
        if kind == "role":
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(role))
            target = sql.SQL("ROLE {} IN DATABASE {}").format(role, database)
            url = re.sub("//[^@/]*@", f"//{role.as_string()}@".replace('"', ""), url)
        for name, value in HOSTILE.items():
            setting = sql.SQL("ALTER {} SET {} = {}").format(
                target, sql.SQL(name), sql.SQL(value if name == "search_path" else "{}").format(sql.Literal(value))
            )
            connection.execute(setting)
        yield url
        if kind == "role":
            connection.execute(sql.SQL("REASSIGN OWNED BY {0} TO CURRENT_USER; DROP OWNED BY {0}").format(role))
            connection.execute(sql.SQL("DROP ROLE {}").format(role))


def use(user: Any, agent: Any, **fields: Any) -> dict[str, Any]:
    event = {
        "event_id": uuid4(),
        "user_id": user,
        "agent_id": agent,
        "occurred_at": NOW,
        "model": "caf\u00e9 \U0001f600",
    }
    return (
        event | {"tokens": 7, "cost_usd": "0.1234567891", "response_time_ms": 12, "conversation_id": uuid4()} | fields
    )


@pytest.mark.parametrize("kind", ["database", "role", "environment"])
def test_everything_runs_and_counts_right(
    kind: str,
    empty_database: str,
    redis_client: redis.Redis,
    make_resources: Callable[..., Resources],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "environment":
        for name, value in {"PGTZ": "Asia/Kathmandu", "PGDATESTYLE": "German", "PGCLIENTENCODING": "LATIN1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PGOPTIONS", "-c search_path=evil -c extra_float_digits=-15 -c bytea_output=escape")
    with hostile_to(empty_database, kind) if kind != "environment" else plain(empty_database) as url:
        runner = Runner(url)
        runner.up()
        assert runner.verify() == []
        runner.down("2.0.0")
        runner.up()
        assert runner.verify() == []
        resources = make_resources(DATABASE_URL=url)
        population = Population.of(4, 2)
        resources.store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        harness = IngestHarness(resources, resources, redis_client, population.users, population.agents, Oracle())
        count(harness)
        maintain(harness)


@contextmanager
def plain(url: str) -> Iterator[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(DECOYS)
    yield url


def fetch(harness: IngestHarness, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with harness.resources.store.session() as session:
        cursor = session.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def count(harness: IngestHarness) -> None:
    """Count events, a duplicate, a rating, an unknown user, and a value that PostgreSQL refuses."""
    pairs = [(user, agent) for user in harness.users for agent in harness.agents]
    events = [use(*pair, occurred_at=NOW - timedelta(days=day)) for pair in pairs for day in (0, 1, 9)]
    rating = {"type": "rating", "rating": "4.5", "event_id": uuid4(), "occurred_at": NOW}
    harness.publish(*events, rating | dict(zip(("user_id", "agent_id"), pairs[0], strict=True)))
    harness.publish(events[0])
    harness.publish(use(uuid4(), harness.agents[0]), counted=False)
    harness.xadd("not JSON")
    harness.flush()
    harness.check()
    intake = harness.resources.store.intake_totals()
    assert (intake.applied, intake.duplicate, intake.quarantined) == (len(events) + 1, 1, 2)
    assert fetch(harness, "SELECT DISTINCT model FROM public.usage_events WHERE type <> 'rating'") == [
        ("caf\u00e9 \U0001f600",)
    ]
    assert fetch(harness, "SELECT max(cost_usd)::text FROM public.usage_events") == [("0.1234567891",)]
    assert fetch(harness, "SELECT DISTINCT actor FROM public.user_agent_history WHERE action = 'purge'") == []


def maintain(harness: IngestHarness) -> None:
    store, settings = harness.resources.store, harness.resources.settings
    report = reconcile(store, settings)
    assert report.differences == []
    assert manage_partitions(store, settings).failed == {}
    refresh(store)
    user = harness.users[0]
    fetch(harness, "UPDATE public.user_agents SET deleted_at = now() - interval '40 days' WHERE user_id = %s", user)
    assert purge(store, timedelta(days=30)).purged == 2
    for table in ("usage_daily", "user_agent_conversations"):
        left = fetch(harness, f"SELECT count(*) FROM public.{table} WHERE user_id = %s", user)
        assert left == [(0,)], "the foreign keys delete what belongs to the rows"
    assert reconcile(store, settings).differences == []


def limit_transactions(url: str, limit: str) -> None:
    """Let the server end every transaction of a database that lasts longer."""
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.info.server_version < 170_000:
            pytest.skip("transaction_timeout is of PostgreSQL 17")
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET transaction_timeout = {}").format(name, limit))


def test_periodic_tasks_outlive_a_limit_of_transactions(database: str) -> None:
    """It is there for clients: what it ends once, it ends each time."""
    limit_transactions(database, "300ms")
    with Store(database) as store:
        with sole_transaction(store, "task") as connection:
            connection.execute("SELECT pg_sleep(0.5)")
        with store.connection() as connection:
            connection.execute(query("no_time_limits"))
            connection.execute("SELECT pg_sleep(0.5)")
        with store.session() as session:
            session.execute(query("only_lock_timeout"), {"lock_timeout": "200ms", "in_transaction": False})
            session.execute("SELECT pg_sleep(0.5)")
        with pytest.raises(StatementCancelledError), store.connection() as connection:
            connection.execute("SELECT pg_sleep(0.5)")


def test_migrations_outlive_a_limit_of_transactions(empty_database: str) -> None:
    limit_transactions(empty_database, "60ms")
    Runner(empty_database).up()
    assert Runner(empty_database).verify() == []
