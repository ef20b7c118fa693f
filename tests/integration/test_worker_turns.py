"""Real Celery workers: everything has its turn in one process, flushes need no beat, and a stop ends them."""

from __future__ import annotations

import json
import signal
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from celery import Celery

from tests.helpers import broker_url, eventually
from tests.integration.database import run
from tests.preloaded import start_celery
from usage_worker.maintenance.partitions import MANAGE_PARTITIONS
from usage_worker.maintenance.purge import PURGE
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.heartbeat import HEARTBEAT_KEY
from usage_worker.service.queues import QueueName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from tests.preloaded import Forked
    from usage_worker.service.resources import Resources

CLAIM = "usage:flushing:{0}"
SLOW_DELETION = """
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN OLD; END';
CREATE TRIGGER sleep BEFORE DELETE ON user_agents FOR EACH ROW EXECUTE FUNCTION sleep();
"""


@contextmanager
def running(cli: Cli, *arguments: str) -> Iterator[Forked]:
    with start_celery(["--quiet", *arguments], cli.folder, cli.env, 2) as process:
        try:
            yield process
        finally:
            process.kill()


def event(harness: IngestHarness, number: int) -> dict[str, Any]:
    pair = {"user_id": harness.users[number % 20], "agent_id": harness.agents[0]}
    return pair | {"event_id": uuid4(), "occurred_at": datetime.now(UTC), "tokens": number}


def test_one_process_does_everything(harness: IngestHarness, database: str, cli: Cli, tmp_path: Path) -> None:
    """While events arrive all the time, messages of `usage.track`, heartbeats and periodic tasks are executed, too."""
    cli.env |= {"USAGE_SCHEDULE_PARTITIONS": "3"}
    tracked = 0

    def publish_and_look() -> bool:
        for _ in range(5):
            publisher.track(harness.users[0], harness.agents[0])
        finished = run(database, "SELECT 1 FROM usage_task_runs WHERE task = %s", MANAGE_PARTITIONS)
        counted = run(database, "SELECT count(*) FROM usage_events WHERE model = 'by Celery'") == [(tracked,)]
        return bool(finished) and counted and bool(harness.redis.exists(HEARTBEAT_KEY))

    with (
        running(cli, "worker", "--concurrency=1"),
        running(cli, "beat", "--pidfile=", f"--schedule={tmp_path / 'beat'}"),
        UsagePublisher(harness.resources.settings.redis_url) as publisher,
        closing(Celery(broker=broker_url(harness.resources.settings.redis_url))) as sender,
    ):
        eventually(lambda: harness.redis.exists(CLAIM), 60)
        for tracked in range(1, 4):
            fields = {key: str(value) for key, value in event(harness, tracked).items()}
            sender.send_task("usage.track", kwargs=fields | {"model": "by Celery"})
            eventually(publish_and_look, 60)
        sent = publisher.stats().accepted
        eventually(lambda: harness.resources.store.intake_totals().applied >= sent, 60)


def test_flushes_go_on_without_beat(harness: IngestHarness, cli: Cli) -> None:
    cli.env |= {"USAGE_FLUSH_BUDGET": "0.1"}
    with running(cli, "worker", "--concurrency=1"):
        for number in range(3):
            harness.publish(event(harness, number))
            await_next_flush(harness, events=number + 1)
    harness.check()


def test_round_of_backlogs_may_take_longer_than_ticks_last(
    make_resources: Callable[..., Resources], harness: IngestHarness, database: str, cli: Cli
) -> None:
    cli.env |= {
        "USAGE_STREAM_SHARDS": "3",
        "USAGE_FLUSH_INTERVAL": "0.1",
        "USAGE_FLUSH_BUDGET": "1",
        "USAGE_BATCH_EVENTS": "1",
    }
    harness.resources = make_resources(DATABASE_URL=database, stream_shards=3)
    for number in range(900):
        harness.oracle.add(added := event(harness, number))
        harness.xadd(json.dumps([added], default=str), shard=number % 3)
    with running(cli, "worker", "--concurrency=1"):
        eventually(lambda: harness.resources.store.intake_totals().accepted == 900, 60)
        # An entry leaves its stream after the commit: a worker that is killed in between would leave it behind.
        stream = harness.resources.stream
        eventually(lambda: not any(stream.backlog(shard).entries for shard in range(3)))
    harness.check()


def test_threads_count_while_a_periodic_task_lasts(harness: IngestHarness, database: str, cli: Cli) -> None:
    """They have more than one connection: each of the tasks that are executed at the same time needs its own."""
    deleted = event(harness, 0)
    harness.publish(deleted)
    harness.flush()
    run(database, "UPDATE user_agents SET deleted_at = now() - interval '1 year'")
    run(database, SLOW_DELETION)
    sleeps = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    with (
        running(cli, "worker", "--pool=threads", "--concurrency=4"),
        closing(Celery(broker=broker_url(harness.resources.settings.redis_url))) as sender,
    ):
        sender.send_task(PURGE, queue=QueueName.MAINTENANCE.value)
        eventually(lambda: run(database, sleeps), 60)
        for number in range(1, 11):
            harness.publish(event(harness, number))
            eventually(lambda: harness.resources.store.intake_totals().applied == number + 1)  # noqa: B023 - at once
        assert run(database, sleeps)


def await_next_flush(harness: IngestHarness, events: int) -> None:
    eventually(lambda: harness.resources.store.intake_totals().accepted == events, 60)
    before = harness.redis.get(CLAIM)
    eventually(lambda: harness.redis.get(CLAIM) not in (None, before))


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_busy_worker_stops_after_its_batch(harness: IngestHarness, cli: Cli, pool: str) -> None:
    cli.env |= {"USAGE_FLUSH_BUDGET": "3600", "USAGE_BATCH_EVENTS": "1"}
    for number in range(3_000):
        harness.oracle.add(added := event(harness, number))
        harness.xadd(json.dumps([added], default=str))
    with running(cli, "worker", f"--pool={pool}", "--concurrency=2") as worker:
        eventually(lambda: harness.resources.store.intake_totals().accepted, 60)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 0
    backlog = harness.resources.stream.backlog(0)
    assert backlog.entries > 0
    assert backlog.pending == 0
    claim: Any = harness.redis.get(CLAIM)
    assert claim.startswith(b"next ")
    harness.flush()
    harness.check()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_idle_worker_stops_without_waiting_for_events(harness: IngestHarness, cli: Cli, pool: str) -> None:
    """Each flush ends in order: none leaves its claim, which would keep other workers from the shard."""
    with running(cli, "worker", f"--pool={pool}", "--concurrency=3") as worker:
        eventually(lambda: harness.redis.exists(CLAIM), 60)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 0
    claim: Any = harness.redis.get(CLAIM)
    assert claim.startswith(b"next ")
