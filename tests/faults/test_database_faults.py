"""PostgreSQL goes away, comes back, says no: nothing is lost, nothing counts twice."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from tests.faults.harness import Arena
from tests.faults.proxy import Cut, Proxy
from tests.helpers import eventually
from usage_worker.errors import ConcurrencyError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    from usage_worker.local import EmbeddedPostgres

OUTAGE = float(os.environ.get("USAGE_FAULT_OUTAGE", "3"))  # seconds; `60` for the minute of the fault matrix
WAITING = "SELECT xact_start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def proxy(database: str) -> Iterator[Proxy]:
    with closing(Proxy(database)) as proxy:
        yield proxy


@pytest.fixture
def far_arena(proxy: Proxy, redis_url: str) -> Iterator[Arena]:
    """An arena whose workers reach the database through the proxy only."""
    with closing(Arena(proxy.url, redis_url)) as arena:
        yield arena


@pytest.fixture
def mortal_arena(mortal_database: str, redis_url: str) -> Iterator[Arena]:
    with closing(Arena(mortal_database, redis_url)) as arena:
        yield arena


def configure(arena: Arena, name: str, value: str) -> None:
    """A setting of the arena's database, for its workers from now on."""
    with psycopg.connect(arena.database, autocommit=True) as connection:
        database = sql.Identifier(connection.info.dbname)
        statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
        connection.execute(statement.format(database, sql.Identifier(name), sql.Literal(value)))
    arena.reconnect()


@pytest.mark.parametrize("when", ["before COMMIT", "after COMMIT"])
def test_cut_at_commit(far_arena: Arena, proxy: Proxy, when: Cut) -> None:
    far_arena.publish(far_arena.traffic(500))
    proxy.cut_next(when)
    with pytest.raises(StoreUnavailableError):
        far_arena.resources.flusher.flush(0)
    assert proxy.has_cut(1)
    assert (far_arena.intake.accepted > 0) == (when == "after COMMIT")
    assert far_arena.pending > 0
    far_arena.drain()
    far_arena.check()


def test_cut_again_and_again(far_arena: Arena, proxy: Proxy, tmp_path: Path) -> None:
    with far_arena.workers(2):
        with far_arena.publishers(tmp_path, 1, 6_000):
            for number in range(6):
                proxy.cut_next("after COMMIT" if number % 2 else "before COMMIT")
                eventually(partial(proxy.has_cut, number + 1), 30)
                proxy.cut_all()
        eventually(far_arena.settled, 60)
    far_arena.check()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restarted_under_load(
    mortal_arena: Arena, mortal_postgres: EmbeddedPostgres, tmp_path: Path, mode: Literal["fast", "immediate"]
) -> None:
    with mortal_arena.workers(2):
        with mortal_arena.publishers(tmp_path, 2, 2_500):
            for target in (200, 2_000):
                eventually(partial(mortal_arena.has_booked, target), 30)
                mortal_postgres.restart(mode)
        eventually(mortal_arena.settled, 60)
    mortal_arena.check()


@pytest.mark.parametrize("kind", ["unreachable", "silent"])
def test_away_for_a_while_under_load(far_arena: Arena, proxy: Proxy, tmp_path: Path, kind: str) -> None:
    with far_arena.workers(2):
        with far_arena.publishers(tmp_path, 1, 2_500, OUTAGE + 60):
            eventually(partial(far_arena.has_booked, 200), 30)
            with getattr(proxy, kind)():
                # The one wait that is no condition: the length of the outage is what is tested.
                time.sleep(OUTAGE)
                assert sum(far_arena.redis.xlen(f"usage:events:{{{shard}}}") for shard in range(2)) > 0
        eventually(far_arena.settled, 60)
    far_arena.check()


def test_statement_timeout(arena: Arena, database: str) -> None:
    arena.publish(arena.traffic(500))
    arena.drain()
    configure(arena, "statement_timeout", "300ms")
    arena.publish(arena.traffic(500, seed=2))
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE user_agents IN SHARE ROW EXCLUSIVE MODE")
        for shard in range(2):
            with pytest.raises(StoreUnavailableError, match="statement timeout"):
                arena.resources.flusher.flush(shard)
    arena.drain()
    arena.check()


def test_a_real_deadlock(arena: Arena, database: str) -> None:
    """Another session takes the pairs' rows in the opposite order; the worker is the one that is sacrificed."""
    events = arena.traffic(400)
    arena.publish(events)
    arena.drain()
    shard = 0
    of_shard = [event for event in events if arena.resources.stream.shard_of(event["user_id"]) == shard]
    pairs = sorted(
        {(event["user_id"], event["agent_id"]) for event in of_shard}, key=lambda pair: (pair[0].int, pair[1].int)
    )
    take = "UPDATE user_agents SET notes = 'mine' WHERE user_id = %s AND agent_id = %s"
    configure(arena, "deadlock_timeout", "100ms")
    arena.publish([event | {"event_id": f"again {number}"} for number, event in enumerate(of_shard)])
    with psycopg.connect(database) as rival:
        rival.execute("SET deadlock_timeout = '30s'")
        rival.execute(take, pairs[-1])
        flushing = threading.Thread(target=arena.resources.flusher.flush, args=(shard,))
        flushing.start()
        first = eventually(lambda: arena.ask(WAITING), 10)
        rival.execute(take, pairs[0])  # the worker has this one: now both wait, until the worker gives up
        assert eventually(lambda: arena.ask(WAITING), 10) != first, "there was no deadlock"
        rival.commit()
        flushing.join(30)
    arena.drain()
    arena.check()


def test_a_serialization_failure(arena: Arena, database: str) -> None:
    """Where the database's transactions are serializable, a row that changed meanwhile makes the batch start again."""
    events = arena.traffic(400)
    arena.publish(events)
    arena.drain()
    configure(arena, "default_transaction_isolation", "serializable")
    arena.publish(arena.traffic(400, seed=2))
    failures: list[BaseException] = []

    def flush() -> None:
        for shard in range(2):
            try:
                arena.resources.flusher.flush(shard)
            except (ConcurrencyError, StoreUnavailableError) as error:
                failures.append(error)

    with psycopg.connect(database) as rival:
        rival.execute("UPDATE user_agents SET notes = 'mine'")
        flushing = threading.Thread(target=flush)
        flushing.start()
        eventually(lambda: arena.ask(WAITING), 10)
        rival.commit()
        flushing.join(30)
    assert failures == []
    arena.drain()
    arena.check()
