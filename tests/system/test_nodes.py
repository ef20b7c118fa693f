"""Workers under several host names: added, stopped, killed, suspended and thawed under load, with exact totals."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING

import psycopg
import pytest
from celery import Celery

from tests.faults.harness import Harness
from tests.helpers import broker_url, descendants, eventually
from tests.integration.commands import Cli
from tests.integration.database import run
from tests.system.nodes import Nodes
from usage_worker.maintenance.pruning import PRUNE
from usage_worker.maintenance.reconcile import RECONCILE
from usage_worker.service.ping import answering_nodes
from usage_worker.service.queues import QueueName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARDS = 8
NAMES = [f"count@node{number}" for number in range(1, 5)]
# The share of one of four nodes was 22 to 28 % in half a minute of steady load; on a busy machine one may count most.
LARGEST_SHARE = 0.85
# Seconds in which the shards of a node that is gone are counted by others, and the start of a worker.
PROMISE = 45
LOCKS_AWAITED = "SELECT count(*) FROM pg_locks WHERE relation = 'usage_task_runs'::regclass AND NOT granted"


@pytest.fixture
def harness(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    monkeypatch.setenv("USAGE_STREAM_SHARDS", str(SHARDS))
    with closing(Harness(database, redis_url, stream_shards=SHARDS)) as harness:
        yield harness


def test_load_is_spread_while_nodes_come_and_go(harness: Harness, tmp_path: Path, redis_url: str) -> None:
    with Nodes(harness, tmp_path) as nodes:
        nodes.start(*NAMES[:3])
        nodes.start_beat()
        nodes.ready(*NAMES[:3])
        with harness.publishers(tmp_path, 1, 12_000):
            nodes.start(NAMES[3])
            eventually(lambda: all(nodes.counted().get(name) for name in NAMES), 60)
            shown = Cli(tmp_path, DATABASE_URL=harness.database, REDIS_URL=redis_url).run("status").stdout
            nodes.stop(NAMES[0])
            nodes.kill(NAMES[1])
        eventually(harness.settled, 60)
        counted = nodes.counted()
        harness.check()
    # A killed one is alive to the others until its record is old.
    assert max(counted.values()) < LARGEST_SHARE * harness.sent, counted
    for name in NAMES:
        assert f"{name}\t" in shown
    assert "events of shards " in shown


def test_shards_of_suspended_and_of_killed_node_are_taken_over(harness: Harness, tmp_path: Path) -> None:
    """Every shard is in the hands of the node that goes; one comes back, and finds that others have counted."""
    harness.env |= {"USAGE_FLUSH_INTERVAL": "1"}
    with Nodes(harness, tmp_path, concurrency=4) as nodes:
        nodes.start(NAMES[0])
        nodes.start_beat()
        nodes.ready(NAMES[0])
        await_all_shards(harness, nodes, NAMES[0])
        nodes.signal(signal.SIGSTOP, NAMES[0])
        nodes.start(NAMES[1])
        await_all_shards(harness, nodes, NAMES[1])
        nodes.signal(signal.SIGCONT, NAMES[0])
        nodes.ready(*NAMES[:2])
        nodes.kill(NAMES[1])
        await_all_shards(harness, nodes, NAMES[0])
        eventually(harness.settled, 60)
    harness.check()


def test_process_whose_result_nobody_reads_ends_soon(harness: Harness, tmp_path: Path) -> None:
    """A worker that shuts down forgets a task that a process has been given and has not begun."""
    name, queue = NAMES[0], QueueName.MAINTENANCE.value
    with (
        Nodes(harness, tmp_path, concurrency=1, options=["--queues", queue]) as nodes,
        closing(Celery(broker=broker_url(harness.redis_url))) as sender,
        ThreadPoolExecutor(1) as pool,
    ):
        nodes.start(name)
        nodes.ready(name)
        (process,) = descendants(nodes.pid(name))
        os.kill(process.pid, signal.SIGSTOP)
        sender.send_task(RECONCILE, queue=queue)
        eventually(lambda: harness.redis.hlen("unacked") == 1)
        assert listens_to_control(harness)
        stopped = pool.submit(nodes.stop, name)
        eventually(lambda: not listens_to_control(harness), 30)
        os.kill(process.pid, signal.SIGCONT)
        stopped.result()
    # The broker delivers it again, to another worker.
    assert harness.redis.hlen("unacked") + harness.redis.llen(queue) == 1


def test_worker_for_maintenance_takes_no_task_that_must_wait(harness: Harness, tmp_path: Path) -> None:
    """One that it held for longer than the visibility timeout would be executed twice."""
    name, queue = NAMES[0], QueueName.MAINTENANCE.value
    with (
        Nodes(harness, tmp_path, concurrency=1, options=["--queues", queue]) as nodes,
        closing(Celery(broker=broker_url(harness.redis_url))) as sender,
        psycopg.connect(harness.database) as holder,
    ):
        nodes.start(name)
        nodes.ready(name)
        holder.execute("LOCK TABLE usage_task_runs")
        sender.send_task(PRUNE, queue=queue)
        eventually(lambda: run(harness.database, LOCKS_AWAITED) == [(1,)])
        sender.send_task(PRUNE, queue=queue)
        for _ in range(3):
            assert answering_nodes(nodes.settings, [name], PROMISE) == {name}
            assert (harness.redis.llen(queue), harness.redis.hlen("unacked")) == (1, 0)
        holder.rollback()
        eventually(lambda: harness.redis.llen(queue) == 0)
        nodes.stop(name)


def listens_to_control(harness: Harness) -> bool:
    """Tell whether a worker listens to `celery control`; one that shuts down ends that before it ends its pool."""
    return any("subscribe" in client["cmd"] for client in harness.redis.client_list())


def await_all_shards(harness: Harness, nodes: Nodes, name: str) -> None:
    """Publish until a worker has counted events of every shard, within the time that the documents promise."""
    before, seeds = nodes.by_shard(name), count(harness.sent)

    def has_counted() -> bool:
        harness.publish(harness.traffic(50, seed=next(seeds)))
        after = nodes.by_shard(name)
        return all(after[shard] > before[shard] for shard in range(SHARDS))

    eventually(has_counted, PROMISE)
