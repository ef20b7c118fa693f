"""The promise with real processes: two publishers, two workers, a murder in the middle of a batch, everything twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

import psycopg

from tests.helpers import await_end, descendants, eventually
from usage_worker.demo.publish import AGENTS, USERS
from usage_worker.local.supervisor import Supervisor
from usage_worker.queue.stream import GROUP
from usage_worker.store import Store
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    import redis

EVENTS = 3_000


def publisher(journal: Path, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "usage_worker.demo.publish", str(journal), str(EVENTS), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def kill_one_in_the_middle_of_a_batch(stack: Supervisor, database: str, client: redis.Redis) -> None:
    """A lock on the counters holds the batches where they are, inside their transactions; then one worker dies."""
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE user_agents IN SHARE ROW EXCLUSIVE MODE")
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        eventually(lambda: holder.execute(waiting).fetchone() != (0,), timeout=30)
        consumers = [
            consumer["name"].decode()
            for shard in range(2)
            for consumer in client.xinfo_consumers(f"usage:events:{{{shard}}}", GROUP)
            if consumer["pending"]
        ]
        assert consumers
        child = int(consumers[0].rpartition("-")[2])
        (worker,) = [pid for pid in stack.pids.values() if child in {process.pid for process in descendants(pid)}]
        family = descendants(worker)
        os.killpg(worker, signal.SIGKILL)
        await_end(family)


def test_totals_are_exact_whatever_happens(
    database: str, redis_url: str, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("USAGE_RECLAIM_IDLE", "2")
    monkeypatch.setenv("USAGE_FLUSH_INTERVAL", "0.2")
    journals = [tmp_path / f"journal-{number}" for number in range(2)]
    with Store(database) as store:
        population = Population.of(USERS, AGENTS)
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        with Supervisor(database, redis_url, workers=2, concurrency=1, flower_port=None, log_dir=tmp_path) as stack:
            stack.wait_ready()
            publishers = [publisher(journal, seed) for seed, journal in enumerate(journals)]
            kill_one_in_the_middle_of_a_batch(stack, database, redis_client)
            for process in publishers:
                assert process.wait(60) == 0
            published = [line for journal in journals for line in journal.read_text().splitlines()]
            again = tmp_path / "again.ndjson"
            again.write_text("\n".join(published))
            subprocess.run([sys.executable, "-m", "usage_worker.cli", "publish", str(again)], check=True, timeout=60)
            sent = 2 * len(published)

            def settled() -> bool:
                stack.poll()
                return store.intake_totals().accepted >= sent

            eventually(settled, timeout=60)
        intake = store.intake_totals()
        oracle, unknown_pairs = Oracle(), 0
        nobody = str(uuid5(NAMESPACE_OID, "nobody"))
        for line in published:
            event = json.loads(line)
            if event["user_id"] == nobody:
                unknown_pairs += 1
            else:
                oracle.add(event)
        assert oracle.differences(store.rows(testing_query("counters"))) == []
        assert store.rows(testing_query("unbalanced")) == []
        assert intake.accepted == sent == intake.applied + intake.duplicate + intake.quarantined
        assert intake.applied == oracle.distinct
        # Both copies of an event in one batch are a letter and a duplicate; in two batches, two letters.
        assert unknown_pairs <= intake.quarantined <= 2 * unknown_pairs
    for shard in range(2):
        key = f"usage:events:{{{shard}}}"
        assert redis_client.xlen(key) == 0
        assert redis_client.xpending(key, GROUP)["pending"] == 0
