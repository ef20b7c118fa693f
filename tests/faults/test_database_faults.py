"""PostgreSQL fails, restarts and refuses: no event is lost or counted twice."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from tests.faults.harness import Harness
from tests.faults.proxy import Cut, Proxy
from tests.helpers import eventually
from usage_worker.errors import ConcurrencyError, LockHeldError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    from usage_worker.local import EmbeddedPostgres

OUTAGE = float(os.environ.get("USAGE_FAULT_OUTAGE", "3"))  # Seconds; docs/faults.md describes runs with 60.
WAITING = "SELECT xact_start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

WAITING_ENTRIES = "SELECT key FROM usage_entries WHERE held_in IS NOT NULL"


@pytest.fixture
def proxy(database: str) -> Iterator[Proxy]:
    with closing(Proxy(database)) as proxy:
        yield proxy


@pytest.fixture
def proxied_harness(proxy: Proxy, redis_url: str) -> Iterator[Harness]:
    """Yield a harness whose workers connect to the database through the proxy."""
    with closing(Harness(proxy.url, redis_url)) as harness:
        yield harness


@pytest.fixture
def durable_harness(durable_database: str, redis_url: str) -> Iterator[Harness]:
    with closing(Harness(durable_database, redis_url)) as harness:
        yield harness


def configure(harness: Harness, name: str, value: str) -> None:
    """Change a setting of the database for all later connections."""
    with psycopg.connect(harness.database, autocommit=True) as connection:
        database = sql.Identifier(connection.info.dbname)
        statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
        connection.execute(statement.format(database, sql.Identifier(name), sql.Literal(value)))
    harness.reconnect()


@pytest.mark.parametrize("when", ["before COMMIT", "after COMMIT"])
def test_connection_cut_at_commit(proxied_harness: Harness, proxy: Proxy, when: Cut) -> None:
    proxied_harness.publish(proxied_harness.traffic(500))
    proxy.cut_next(when)
    with pytest.raises(StoreUnavailableError):
        proxied_harness.resources.flusher.flush(0)
    assert proxy.has_cut(1)
    assert (proxied_harness.intake.accepted > 0) == (when == "after COMMIT")
    assert proxied_harness.pending > 0
    proxied_harness.drain()
    proxied_harness.check()


def test_connections_cut_repeatedly(proxied_harness: Harness, proxy: Proxy, tmp_path: Path) -> None:
    with proxied_harness.workers(2):
        with proxied_harness.publishers(tmp_path, 1, 6_000):
            for number in range(6):
                proxy.cut_next("after COMMIT" if number % 2 else "before COMMIT")
                eventually(partial(proxy.has_cut, number + 1), 30)
                proxy.cut_all()
        eventually(proxied_harness.settled, 60)
    proxied_harness.check()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_restarts_under_load(
    durable_harness: Harness, durable_postgres: EmbeddedPostgres, tmp_path: Path, mode: Literal["fast", "immediate"]
) -> None:
    with durable_harness.workers(2):
        with durable_harness.publishers(tmp_path, 2, 2_500):
            for target in (200, 2_000):
                eventually(partial(durable_harness.has_counted, target), 30)
                durable_postgres.restart(mode)
        eventually(durable_harness.settled, 60)
    durable_harness.check()


@pytest.mark.parametrize("kind", ["unreachable", "silent"])
def test_postgres_outage_under_load(proxied_harness: Harness, proxy: Proxy, tmp_path: Path, kind: str) -> None:
    with proxied_harness.workers(2):
        with proxied_harness.publishers(tmp_path, 1, 2_500, OUTAGE + 60):
            eventually(partial(proxied_harness.has_counted, 200), 30)
            with getattr(proxy, kind)():
                # The only fixed wait of the tests: the outage must last this long.
                time.sleep(OUTAGE)
                assert sum(proxied_harness.redis.xlen(f"usage:events:{{{shard}}}") for shard in range(2)) > 0
        eventually(proxied_harness.settled, 60)
    proxied_harness.check()


def test_statement_timeout(harness: Harness, database: str) -> None:
    harness.publish(harness.traffic(500))
    harness.drain()
    configure(harness, "statement_timeout", "300ms")
    harness.publish(harness.traffic(500, seed=2))
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE user_agents IN SHARE ROW EXCLUSIVE MODE")
        for shard in range(2):
            # The limit for locks is below the limit for statements, so that it can be told who holds the table.
            with pytest.raises(LockHeldError, match=f"held by pid {holder.info.backend_pid} "):
                harness.resources.flusher.flush(shard)
    harness.drain()
    harness.check()


def test_rows_held_by_users_under_load(harness: Harness, tmp_path: Path) -> None:
    """Users keep transactions open that hold their rows, while events flow and a worker is killed."""
    harness.publish(harness.traffic(1_000))
    harness.drain()
    users = harness.population.users
    with harness.workers(2) as processes:
        with harness.publishers(tmp_path, 1, 2_500):
            for number in range(2):
                with ExitStack() as stack:
                    for user in users[number::20]:
                        holder = stack.enter_context(psycopg.connect(harness.database))
                        holder.execute("UPDATE user_agents SET notes = 'mine' WHERE user_id = %s", [user])
                    eventually(lambda: harness.fetch(WAITING_ENTRIES), 30)
                    before = harness.intake.accepted
                    harness.publish(harness.traffic(100, seed=10 + number))
                    eventually(partial(harness.has_counted, before + 1), 30)
                    if number == 0:
                        processes[0].kill()
        eventually(harness.settled, 60)
    assert harness.fetch(WAITING_ENTRIES) == []
    harness.check()


def test_deadlock_loses_no_event(harness: Harness, database: str) -> None:
    """Another session locks the rows in the opposite order; PostgreSQL aborts the worker's transaction."""
    events = harness.traffic(400)
    harness.publish(events)
    harness.drain()
    shard = 0
    of_shard = [event for event in events if harness.resources.stream.shard_of(event["user_id"]) == shard]
    pairs = sorted(
        {(event["user_id"], event["agent_id"]) for event in of_shard}, key=lambda pair: (pair[0].int, pair[1].int)
    )
    lock = "UPDATE user_agents SET notes = 'mine' WHERE user_id = %s AND agent_id = %s"
    configure(harness, "deadlock_timeout", "100ms")
    harness.publish([event | {"event_id": f"again {number}"} for number, event in enumerate(of_shard)])
    with psycopg.connect(database) as rival:
        rival.execute("SET deadlock_timeout = '30s'")
        rival.execute(lock, pairs[-1])
        flushing = threading.Thread(target=harness.resources.flusher.flush, args=(shard,))
        flushing.start()
        first = eventually(lambda: harness.fetch(WAITING), 10)
        rival.execute(lock, pairs[0])  # the worker holds this row: both wait until its transaction is aborted
        assert eventually(lambda: harness.fetch(WAITING), 10) != first, "there was no deadlock"
        rival.commit()
        flushing.join(30)
    harness.drain()
    harness.check()


def test_serializable_database(harness: Harness, database: str) -> None:
    """Our transactions are read committed, so that a row changed by another session does not make a batch fail."""
    events = harness.traffic(400)
    harness.publish(events)
    harness.drain()
    configure(harness, "default_transaction_isolation", "serializable")
    harness.publish(harness.traffic(400, seed=2))
    failures: list[BaseException] = []

    def flush() -> None:
        for shard in range(2):
            try:
                harness.resources.flusher.flush(shard)
            except (ConcurrencyError, StoreUnavailableError) as error:
                failures.append(error)

    with psycopg.connect(database) as rival:
        rival.execute("UPDATE user_agents SET notes = 'mine'")
        flushing = threading.Thread(target=flush)
        flushing.start()
        eventually(lambda: harness.fetch(WAITING), 10)
        rival.commit()
        flushing.join(30)
    assert failures == []
    harness.drain()
    harness.check()
