"""Exactly once with real processes: a worker is killed inside its transaction, and every event is sent twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg

from tests.helpers import await_end, descendants, eventually
from usage_worker.demo.publish import AGENTS, UNKNOWN_USER, USERS
from usage_worker.local.supervisor import Supervisor
from usage_worker.queue.stream import GROUP
from usage_worker.store.connection import Store
from usage_worker.testing import Oracle, Population
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    import redis

EVENTS = 3_000


def test_totals_are_exact_after_worker_death_and_resending(
    database: str, redis_url: str, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("USAGE_RECLAIM_IDLE", "2")
    monkeypatch.setenv("USAGE_FLUSH_INTERVAL", "0.2")
    with Store(database) as store:
        population = Population.of(USERS, AGENTS)
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        with Supervisor(database, redis_url, workers=2, concurrency=1, flower_port=None, log_dir=tmp_path) as celery:
            celery.wait_ready(180)
            files = [tmp_path / f"events-{number}.ndjson" for number in range(2)]
            publishers = [start_publisher(file, seed) for seed, file in enumerate(files)]
            kill_worker_inside_its_transaction(celery, database, redis_client)
            for process in publishers:
                assert process.wait(120) == 0
            lines = [line for file in files for line in file.read_text().splitlines()]
            send_again(lines, tmp_path / "again.ndjson")
            eventually(lambda: is_accepted(celery, store, 2 * len(lines)), timeout=60)
        check_totals(store, lines)
    check_streams_are_empty(redis_client)


def start_publisher(file: Path, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "usage_worker.demo.publish", str(file), str(EVENTS), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def kill_worker_inside_its_transaction(celery: Supervisor, database: str, client: redis.Redis) -> None:
    """Block the batches inside their transactions with a lock on the ledger's partitions, then kill one worker.

    Whether the tables are locked a worker asks before it reads anything.
    """
    with psycopg.connect(database) as locker:
        partitions = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_events'::regclass"
        for (partition,) in locker.execute(partitions).fetchall():
            locker.execute(f"LOCK TABLE {partition} IN SHARE ROW EXCLUSIVE MODE".encode())
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        eventually(lambda: locker.execute(waiting).fetchone() != (0,), timeout=30)
        consumers = [
            consumer["name"].decode()
            for shard in range(2)
            for consumer in client.xinfo_consumers(f"usage:events:{{{shard}}}", GROUP)
            if consumer["pending"]
        ]
        assert consumers
        child = int(consumers[0].rsplit("-", 2)[1])
        (worker,) = [pid for pid in celery.pids.values() if child in {process.pid for process in descendants(pid)}]
        processes = descendants(worker)
        os.killpg(worker, signal.SIGKILL)
        await_end(processes)


def send_again(lines: list[str], file: Path) -> None:
    file.write_text("\n".join(lines))
    subprocess.run([sys.executable, "-m", "usage_worker.cli", "publish", str(file)], check=True, timeout=60)


def is_accepted(celery: Supervisor, store: Store, sent: int) -> bool:
    celery.poll()
    return store.intake_totals().accepted >= sent


def check_totals(store: Store, lines: list[str]) -> None:
    """Compare all totals with the oracle, for events that were sent twice each."""
    oracle, unknown_user_events = Oracle(), 0
    for line in lines:
        event = json.loads(line)
        if event["user_id"] == str(UNKNOWN_USER):
            unknown_user_events += 1
        else:
            oracle.add(event)
    assert oracle.differences(store.rows(testing_query("counters"))) == []
    assert store.rows(testing_query("unbalanced")) == []
    intake = store.intake_totals()
    assert intake.accepted == 2 * len(lines) == intake.applied + intake.duplicate + intake.quarantined
    assert intake.applied == oracle.distinct
    # An event sent twice is one dead letter and a duplicate within a batch, and two dead letters in two batches.
    assert unknown_user_events <= intake.quarantined <= 2 * unknown_user_events


def check_streams_are_empty(client: redis.Redis) -> None:
    for shard in range(2):
        key = f"usage:events:{{{shard}}}"
        assert client.xlen(key) == 0
        assert client.xpending(key, GROUP)["pending"] == 0
