"""Valkey fails, loses keys and fills up, with real Celery workers and without them."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from tests.faults.harness import Harness, process_state
from tests.helpers import eventually
from usage_worker.local import EmbeddedValkey
from usage_worker.local.supervisor import Supervisor
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.stream import GROUP
from usage_worker.queue.vitals import REDIS_MEMORY_LIMIT, read_vitals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


STREAMS = [f"usage:events:{{{shard}}}" for shard in range(2)]


@pytest.fixture
def durable_harness(database: str, durable_valkey: EmbeddedValkey) -> Iterator[Harness]:
    with closing(Harness(database, durable_valkey.url())) as harness:
        harness.redis.flushdb()
        yield harness
        harness.redis.flushdb()


@pytest.fixture(scope="module")
def celery_stack(
    durable_postgres: Any, durable_valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Supervisor, Harness]]:
    """Run Celery workers and beat, which must survive all faults of this module."""
    with psycopg.connect(durable_postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE celery TEMPLATE template")
    harness = Harness(durable_postgres.url("celery"), durable_valkey.url(1))
    logs = tmp_path_factory.mktemp("logs")
    options: Any = {"concurrency": 2, "flower_port": None, "log_dir": logs, "variables": harness.env}
    with closing(harness), Supervisor(harness.database, harness.redis_url, **options) as stack:
        stack.wait_ready(180)
        yield stack, harness


@contextmanager
def load(harness: Harness, folder: Path) -> Iterator[None]:
    """Publish events during the block; afterwards assert that all of them are counted."""
    with harness.publishers(folder, 1, 2_000):
        begin = harness.sent
        eventually(lambda: harness.has_counted(begin + 200), 30)
        yield
    eventually(harness.settled, 60)
    harness.check()


def restart(harness: Harness, server: EmbeddedValkey) -> None:
    server.restart()


def kill_clients(harness: Harness, server: EmbeddedValkey) -> None:
    for kind in ("normal", "pubsub"):
        harness.redis.client_kill_filter(_type=kind, skipme=True)


def destroy_groups(harness: Harness, server: EmbeddedValkey) -> None:
    for stream in STREAMS:
        harness.redis.xgroup_destroy(stream, GROUP)


def delete_other_keys(harness: Harness, server: EmbeddedValkey) -> None:
    others = [key for key in harness.redis.scan_iter("*") if key.decode() not in STREAMS]
    assert harness.redis.delete(*others)


FAULTS = (restart, kill_clients, destroy_groups, delete_other_keys)


@pytest.mark.parametrize("fault", FAULTS)
def test_redis_fault_under_load(
    celery_stack: tuple[Supervisor, Harness], durable_valkey: EmbeddedValkey, tmp_path: Path, fault: Any
) -> None:
    stack, harness = celery_stack
    before = stack.pids
    with load(harness, tmp_path):
        fault(harness, durable_valkey)
    assert {name: pid for name, pid in stack.pids.items() if process_state(pid) not in ("", "Z")} == before, (
        "a process was restarted"
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_redis_fault_while_idle(
    celery_stack: tuple[Supervisor, Harness], durable_valkey: EmbeddedValkey, tmp_path: Path, fault: Any
) -> None:
    stack, harness = celery_stack
    eventually(harness.settled, 30)
    fault(harness, durable_valkey)
    with load(harness, tmp_path):
        pass
    assert all(process_state(pid) not in ("", "Z") for pid in stack.pids.values())


@pytest.mark.parametrize("moment", ["before the transaction", "after COMMIT", "before the acknowledgement"])
def test_redis_restarts_during_flush(durable_harness: Harness, durable_valkey: EmbeddedValkey, moment: str) -> None:
    harness = durable_harness
    harness.publish(harness.traffic(600))
    with harness.workers(1, moment, "STOP") as (worker,):
        eventually(lambda: process_state(worker.pid) == "T", 30)
        durable_valkey.restart()
        assert harness.pending > 0
        worker.send_signal(signal.SIGCONT)
        harness.publish(harness.traffic(600, seed=2))
        eventually(harness.settled, 30)
        assert worker.poll() is None
    harness.check()


def test_publisher_resends_after_lost_connections(durable_harness: Harness, durable_valkey: EmbeddedValkey) -> None:
    """A pack whose reply was lost is sent again and counted once."""
    harness = durable_harness
    with harness.workers(1), UsagePublisher(harness.redis_url, linger=0, pack_events=20) as publisher:
        for number, event in enumerate(harness.traffic(3_000)):
            assert publisher.add(dict(event))
            harness.record([event])
            if number % 250 == 0:
                kill_clients(harness, durable_valkey)
        assert publisher.flush(30)
        eventually(harness.settled, 30)
    harness.check()


@contextmanager
def full_server(folder: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(folder, {"maxmemory": "32mb"}) as server:
        yield server


def fill(harness: Harness, share: float) -> None:
    """Add keys of another program up to a share of the memory; with 1, draining does not free enough memory either."""
    number = 0
    while (used := read_vitals(harness.resources.stream.connection).memory_used or 0.0) < min(share, 0.95):
        harness.redis.set(f"foreign:{used}:{number}", "x" * 100_000)
        number += 1
    if share == 1:
        info: Any = harness.redis.info("memory")
        harness.redis.config_set("maxmemory", info["used_memory"] * 4 // 5)


def drain_command(harness: Harness) -> list[dict[str, Any]]:
    process = harness.command("usage_worker.cli", "drain", "--json", stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    figures: list[dict[str, Any]] = json.loads(output)
    return figures


@pytest.mark.parametrize("group", ["with a group", "without a group"])
def test_full_redis_is_drained(database: str, server_folder: Path, group: str) -> None:
    folder = server_folder / f"full-{len(group)}"
    with full_server(folder) as server, closing(Harness(database, server.url())) as harness:
        if group == "with a group":
            harness.drain()
        harness.publish(harness.traffic(3_000))
        with UsagePublisher(harness.redis_url, linger=0) as publisher:
            fill(harness, REDIS_MEMORY_LIMIT + 0.1)
            waiting = harness.traffic(500, seed=2)
            for event in waiting:
                assert publisher.add(dict(event))
            assert "its memory is" in eventually(lambda: publisher.stats().holding)
            fill(harness, 1)
            with pytest.raises(redis.OutOfMemoryError):
                harness.redis.set("one", "more")
            assert publisher.stats().buffered == len(waiting)
            assert [figures["left"] for figures in drain_command(harness)] == [0, 0]
            harness.check()
            foreign: Any = harness.redis.keys("foreign:*")
            harness.redis.delete(*foreign)
            assert publisher.flush(30)
            harness.record(waiting)
        assert sum(figures["applied"] for figures in drain_command(harness)) == len(waiting)
        harness.check()
