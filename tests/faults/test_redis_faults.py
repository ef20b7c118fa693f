"""Valkey goes away, forgets, fills up, under real Celery workers and without them."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from tests.faults.harness import Arena, state_of
from tests.helpers import eventually
from usage_worker.local import EmbeddedValkey
from usage_worker.local.supervisor import Supervisor
from usage_worker.publisher import REDIS_MEMORY_LIMIT, UsagePublisher
from usage_worker.queue.stream import GROUP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


STREAMS = [f"usage:events:{{{shard}}}" for shard in range(2)]


@pytest.fixture
def mortal_arena(database: str, mortal_valkey: EmbeddedValkey) -> Iterator[Arena]:
    with closing(Arena(database, mortal_valkey.url())) as arena:
        arena.redis.flushdb()
        yield arena
        arena.redis.flushdb()


@pytest.fixture(scope="module")
def crew(
    mortal_postgres: Any, mortal_valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Supervisor, Arena]]:
    """Real Celery workers and beat that live through all of this module's faults, one after the other."""
    with psycopg.connect(mortal_postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE crew TEMPLATE template")
    arena = Arena(mortal_postgres.url("crew"), mortal_valkey.url(1))
    with pytest.MonkeyPatch.context() as patch, closing(arena):
        for name, value in arena.env.items():
            patch.setenv(name, value)
        logs = tmp_path_factory.mktemp("logs")
        with Supervisor(arena.database, arena.redis_url, concurrency=2, flower_port=None, log_dir=logs) as stack:
            stack.wait_ready()
            yield stack, arena


@contextmanager
def load(arena: Arena, folder: Path) -> Iterator[None]:
    """Events come all the time; at the end all of them are counted, by the same processes."""
    with arena.publishers(folder, 1, 2_000):
        begin = arena.sent
        eventually(lambda: arena.has_booked(begin + 200), 30)
        yield
    eventually(arena.settled, 60)
    arena.check()


def restart(arena: Arena, server: EmbeddedValkey) -> None:
    server.restart()


def kill_clients(arena: Arena, server: EmbeddedValkey) -> None:
    for kind in ("normal", "pubsub"):
        arena.redis.client_kill_filter(_type=kind, skipme=True)


def destroy_groups(arena: Arena, server: EmbeddedValkey) -> None:
    for stream in STREAMS:
        arena.redis.xgroup_destroy(stream, GROUP)


def delete_other_keys(arena: Arena, server: EmbeddedValkey) -> None:
    others = [key for key in arena.redis.scan_iter("*") if key.decode() not in STREAMS]
    assert arena.redis.delete(*others)


FAULTS = (restart, kill_clients, destroy_groups, delete_other_keys)


@pytest.mark.parametrize("fault", FAULTS)
def test_under_load(crew: tuple[Supervisor, Arena], mortal_valkey: EmbeddedValkey, tmp_path: Path, fault: Any) -> None:
    stack, arena = crew
    before = stack.pids
    with load(arena, tmp_path):
        fault(arena, mortal_valkey)
    assert {name: pid for name, pid in stack.pids.items() if state_of(pid) not in ("", "Z")} == before, (
        "somebody had to be started again"
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_idle(crew: tuple[Supervisor, Arena], mortal_valkey: EmbeddedValkey, tmp_path: Path, fault: Any) -> None:
    stack, arena = crew
    eventually(arena.settled, 30)
    fault(arena, mortal_valkey)
    with load(arena, tmp_path):
        pass
    assert all(state_of(pid) not in ("", "Z") for pid in stack.pids.values())


@pytest.mark.parametrize("moment", ["before the transaction", "after COMMIT", "before the acknowledgement"])
def test_restarted_in_the_middle_of_a_flush(
    mortal_arena: Arena, mortal_valkey: EmbeddedValkey, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arena = mortal_arena
    arena.publish(arena.traffic(600))
    with arena.workers(1, moment, "STOP") as (worker,):
        eventually(lambda: state_of(worker.pid) == "T", 30)
        mortal_valkey.restart()
        assert arena.pending > 0
        worker.send_signal(signal.SIGCONT)
        arena.publish(arena.traffic(600, seed=2))
        eventually(arena.settled, 30)
        assert worker.poll() is None
    arena.check()


def test_killed_clients_of_a_publisher(mortal_arena: Arena, mortal_valkey: EmbeddedValkey) -> None:
    """A pack whose answer got lost is sent again, and is not counted again."""
    arena = mortal_arena
    with arena.workers(1), UsagePublisher(arena.redis_url, linger=0, pack_events=20) as publisher:
        for number, event in enumerate(arena.traffic(3_000)):
            assert publisher.add(dict(event))
            arena.note([event])
            if number % 250 == 0:
                kill_clients(arena, mortal_valkey)
        assert publisher.flush(30)
        eventually(arena.settled, 30)
    arena.check()


@contextmanager
def full_server(folder: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(folder, {"maxmemory": "32mb"}) as server:
        yield server


def fill(arena: Arena, share: float) -> None:
    """Foreign keys up to that share of the memory; 1 takes so much that what drains makes no room either."""
    number = 0
    while (used := arena.resources.stream.memory_used()) < min(share, 0.95):
        arena.redis.set(f"foreign:{used}:{number}", "x" * 100_000)
        number += 1
    if share == 1:
        info: Any = arena.redis.info("memory")
        arena.redis.config_set("maxmemory", info["used_memory"] * 4 // 5)


def drain_command(arena: Arena) -> list[dict[str, Any]]:
    process = arena.command("usage_worker.cli", "drain", "--json", stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    figures: list[dict[str, Any]] = json.loads(output)
    return figures


@pytest.mark.parametrize("group", ["with its group", "that nobody has read yet"])
def test_full(database: str, server_folder: Path, group: str) -> None:
    folder = server_folder / f"full-{len(group)}"
    with full_server(folder) as server, closing(Arena(database, server.url())) as arena:
        if group == "with its group":
            arena.drain()
        arena.publish(arena.traffic(3_000))
        with UsagePublisher(arena.redis_url, linger=0) as publisher:
            fill(arena, REDIS_MEMORY_LIMIT + 0.02)
            waiting = arena.traffic(500, seed=2)
            for event in waiting:
                assert publisher.add(dict(event))
            assert "its memory is" in eventually(lambda: publisher.stats().holding)
            fill(arena, 1)
            with pytest.raises(redis.OutOfMemoryError):
                arena.redis.set("one", "more")
            assert publisher.stats().buffered == len(waiting)
            assert [figures["left"] for figures in drain_command(arena)] == [0, 0]
            arena.check()
            foreign: Any = arena.redis.keys("foreign:*")
            arena.redis.delete(*foreign)
            assert publisher.flush(30)
            arena.note(waiting)
        assert sum(figures["applied"] for figures in drain_command(arena)) == len(waiting)
        arena.check()
