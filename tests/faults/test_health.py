"""Drills: whatever stops the counting, `status` names it within 30 s, blames nothing else, and recovers by itself."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
import redis

from tests.faults.harness import UNKNOWN_USER, Event, Harness
from tests.helpers import eventually
from usage_worker.local.supervisor import Supervisor
from usage_worker.monitoring.status import collect_status
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
    from usage_worker.monitoring.status import SystemStatus

# Seconds in which the right cause must be named, and in which the status must be green again afterwards.
PROMISE = 30
# As by default, a flush that finds nothing succeeds between two that reclaim the same entries.
QUICK: dict[str, Any] = {"reclaim_idle": 5.0, "flush_interval": 0.5}
REFUSE = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION USING ERRCODE = '57P03', MESSAGE = 'no room for this batch';
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON public.usage_entries FOR EACH ROW EXECUTE FUNCTION public.refuse()
"""


class Stack:
    """A worker that counts, one for maintenance and beat, and what a status of them says."""

    def __init__(self, harness: Harness, supervisor: Supervisor) -> None:
        self.harness, self.supervisor = harness, supervisor
        self.settings = Settings(DATABASE_URL=harness.database, REDIS_URL=harness.redis_url, **QUICK)

    def status(self) -> SystemStatus:
        return collect_status(self.settings)

    def problems(self) -> dict[str, str]:
        """Return the reasons by check; a check that only warns is here, too."""
        return {problem.name: problem.reason for problem in self.status().problems}

    def await_problems(self, *names: str) -> dict[str, str]:
        """Wait until exactly these checks are problems, and return their reasons."""
        seen: dict[str, str] = {}

        def as_expected() -> bool:
            nonlocal seen
            seen = self.problems()
            return seen.keys() == set(names)

        try:
            eventually(as_expected, PROMISE)
        except pytest.fail.Exception:
            pytest.fail(f"instead of {names}: {seen}")
        return seen

    def rows_of(self, event: Event) -> int:
        """Return how many pairs the user of an event has."""
        found = self.harness.fetch(f"SELECT count(*) FROM user_agents WHERE user_id = '{event['user_id']}'")
        return int(found[0]["count"])

    def signal(self, number: int, *processes: str) -> None:
        for name in processes:
            os.kill(self.supervisor.pids[name], number)

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.harness.database, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


@pytest.fixture(scope="module")
def stack(
    durable_postgres: EmbeddedPostgres, durable_valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    with psycopg.connect(durable_postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE health TEMPLATE template")
    database, url = durable_postgres.url("health"), durable_valkey.url()
    variables = {f"USAGE_{name.upper()}": str(value) for name, value in QUICK.items()}
    with redis.Redis.from_url(url) as client:
        client.flushall()
    logs = tmp_path_factory.mktemp("health")
    with (
        closing(Harness(database, url)) as harness,
        Supervisor(database, url, concurrency=1, flower_port=None, log_dir=logs, variables=variables) as supervisor,
    ):
        stack = Stack(harness, supervisor)
        eventually(lambda: not stack.problems(), 60)
        yield stack
    with psycopg.connect(durable_postgres.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE health WITH (FORCE)")


@pytest.fixture(autouse=True)
def _healthy_before_and_after(stack: Stack) -> Iterator[None]:
    stack.await_problems()
    yield
    stack.await_problems()


def test_stopped_processes_are_told_apart(stack: Stack) -> None:
    stack.signal(signal.SIGSTOP, "worker1", "maintenance", "beat")
    with ExitStack() as undo:
        undo.callback(stack.signal, signal.SIGCONT, "worker1", "maintenance", "beat")
        seen = stack.await_problems("consumer_counting", "consumer_maintenance", "beat")
        assert "worker1@" in seen["consumer_counting"]
        assert "maintenance@" in seen["consumer_maintenance"]
        assert "no beat runs" in seen["beat"]
        stack.signal(signal.SIGCONT, "beat")
        stack.await_problems("consumer_counting", "consumer_maintenance")
        stack.signal(signal.SIGCONT, "worker1")
        stack.await_problems("consumer_maintenance")


def test_read_only_database(stack: Stack) -> None:
    name = stack.harness.database.rpartition("/")[2].partition("?")[0]
    end_sessions = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'usage-worker'"
    )
    stack.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on", end_sessions)
    try:
        seen = stack.await_problems("read_only", "flush")
    finally:
        stack.execute("SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL", end_sessions)
    assert "read-only transaction" in seen["flush"]


def test_batch_that_fails_again_and_again(stack: Stack) -> None:
    stack.execute(REFUSE)
    stack.harness.xadd(stack.harness.traffic(1), shard=0)
    try:
        seen = stack.await_problems("oldest_entry")
    finally:
        stack.execute("DROP TRIGGER refuse ON public.usage_entries; DROP FUNCTION public.refuse")
    assert "shard 0" in seen["oldest_entry"]
    assert "no room for this batch" in seen["oldest_entry"]
    assert "shard 1" not in seen["oldest_entry"]


def test_locked_table(stack: Stack) -> None:
    with psycopg.connect(stack.harness.database, application_name="report") as holder:
        holder.execute("LOCK TABLE public.user_agents IN ACCESS EXCLUSIVE MODE")
        stack.harness.xadd(stack.harness.traffic(1), shard=0)
        pid = holder.info.backend_pid
        eventually(lambda: "locks" in stack.problems(), PROMISE)
        seen = stack.problems()
        assert f"pid {pid}, " in seen["locks"]
        assert "report" in seen["locks"]
        assert "user_agents" in seen["locks"]
        assert not seen.keys() - {"locks", "flush", "oldest_entry"}


def test_held_row(stack: Stack) -> None:
    (event,) = stack.harness.traffic(1, seed=5)
    stack.harness.publish([event])
    eventually(lambda: stack.rows_of(event) == 1, PROMISE)
    with psycopg.connect(stack.harness.database, application_name="tenant") as holder:
        user = [event["user_id"]]
        assert holder.execute("UPDATE public.user_agents SET folder = 'x' WHERE user_id = %s", user).rowcount == 1
        stack.harness.publish([event | {"event_id": uuid4()}])
        eventually(lambda: "locks" in stack.problems(), PROMISE)
        seen = stack.problems()
        assert f"pid {holder.info.backend_pid}, " in seen["locks"]
        assert "tenant" in seen["locks"]
        assert not seen.keys() - {"locks", "held_rows", "flush", "oldest_entry"}


def test_postgresql_down(stack: Stack, durable_postgres: EmbeddedPostgres) -> None:
    durable_postgres.kill()
    try:
        stack.harness.xadd(stack.harness.traffic(1, seed=4), shard=0)
        status = stack.status()
        assert "postgresql" in {problem.name for problem in status.problems}
        assert status.figures.redis_memory is not None
        assert status.figures.backlog
        assert sum(backlog.entries for backlog in status.figures.backlog.values()) >= 1
        assert not {problem.name for problem in status.problems} - {"postgresql", "flush"}
    finally:
        durable_postgres.restart()


def test_full_redis(stack: Stack) -> None:
    client = stack.harness.redis
    client.config_set("maxmemory", 1)
    try:
        seen = stack.await_problems("redis_memory")
        assert "Celery cannot work" in seen["redis_memory"]
        # Records of workers and beat arrive nevertheless.
        reply: Any = client.time()
        eventually(lambda: records_since(client, reply[0]) == 3, PROMISE)
        assert not stack.problems().keys() - {"redis_memory"}
    finally:
        client.config_set("maxmemory", 0)


def test_events_of_unknown_users(stack: Stack) -> None:
    bad = [event | {"user_id": UNKNOWN_USER} for event in stack.harness.traffic(20, seed=2)]
    stack.harness.publish(bad)
    seen = stack.await_problems("quarantined")
    assert "user_id: no such user" in seen["quarantined"]
    publish_good(stack, 2_000)


def test_evicting_redis(stack: Stack) -> None:
    client = stack.harness.redis
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "discards events that wait" in stack.await_problems("eviction")["eviction"]
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_entries_where_no_worker_reads(stack: Stack, durable_valkey: EmbeddedValkey) -> None:
    entry: Any = {"v": "1", "n": "1", "events": json.dumps([{"user_id": str(uuid4()), "agent_id": str(uuid4())}])}
    with redis.Redis.from_url(durable_valkey.url(7)) as other:
        other.xadd("usage:events:{0}", entry)
        seen = stack.await_problems("foreign_database")
        assert "1 entries lie in database 7" in seen["foreign_database"]
        other.flushdb()


def publish_good(stack: Stack, count: int) -> None:
    stack.harness.publish(stack.harness.traffic(count, seed=3))


def records_since(client: redis.Redis, seconds: int) -> int:
    records: Any = client.hvals("usage:processes")
    return sum(int(record.split()[0]) > seconds for record in records)
