"""Workers that are killed, suspended or asked to stop, at every point of a batch."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.flusher import POINTS
from tests.faults.harness import UNKNOWN_USER, process_state
from tests.helpers import await_end, descendants, eventually
from usage_worker.local.supervisor import Supervisor
from usage_worker.queue.stream import GROUP

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.harness import Harness

COMMITTED = POINTS[3:]


def publish_with_duplicates(harness: Harness) -> None:
    events = harness.traffic(800)
    unknown_pairs = [event | {"user_id": UNKNOWN_USER} for event in harness.traffic(5, seed=9)]
    harness.publish([*events, *events[:50], *unknown_pairs])


@pytest.mark.parametrize("point", POINTS)
def test_killed_worker_loses_no_event(harness: Harness, point: str) -> None:
    publish_with_duplicates(harness)
    with harness.workers(1, point) as (victim,):
        assert victim.wait(120) == -signal.SIGKILL
        assert harness.pending > 0
        assert (harness.intake.accepted > 0) == (point in COMMITTED)
    with harness.workers(2):
        eventually(harness.settled, 30)
    harness.check()
    # At the last point the entries are deleted without being counted.
    assert (harness.vanished > 0) == (point == POINTS[-1])


@pytest.mark.parametrize("point", POINTS)
def test_worker_stopped_beyond_reclaim_time_counts_nothing_twice(harness: Harness, point: str) -> None:
    """Other workers count its batch; when it resumes, it must not count the batch again."""
    publish_with_duplicates(harness)
    with harness.workers(1, point, "STOP") as (sleeper,):
        eventually(lambda: process_state(sleeper.pid) == "T", 30)
        with harness.workers(2):
            eventually(harness.settled, 60)
            sleeper.send_signal(signal.SIGCONT)
            harness.publish(harness.traffic(300, seed=2))
            eventually(harness.settled, 30)
            assert sleeper.poll() is None
    harness.check()
    assert (harness.vanished > 0) == (point == POINTS[-1])


def test_backlog_older_than_every_timeout_is_counted(harness: Harness) -> None:
    """The entries are weeks old, and some are pending for a worker that no longer exists."""
    long_ago = datetime.now(UTC) - timedelta(days=20)
    for shard in range(2):
        for number in range(10):
            events = [
                event | {"occurred_at": long_ago + timedelta(seconds=place, microseconds=number)}
                for place, event in enumerate(harness.traffic(30, seed=10 * shard + number))
            ]
            harness.xadd(events, shard, f"{int(long_ago.timestamp() * 1000) + number}-1")
        assert len(harness.resources.stream.read(shard, "forgotten", 4)) == 4
    eventually(lambda: idle_milliseconds(harness) > 500, 10)
    with harness.workers(1):
        eventually(harness.settled, 30)
    harness.check()


def idle_milliseconds(harness: Harness) -> int:
    pending: Any = harness.redis.xpending_range("usage:events:{0}", GROUP, "-", "+", 10)
    return min(int(entry["time_since_delivered"]) for entry in pending)


@pytest.mark.parametrize("name", ["worker", "child"])
def test_celery_worker_stops_within_limit_under_load(harness: Harness, tmp_path: Path, name: str) -> None:
    """The current batch is finished, and the worker ends without spending the budget of its flush."""
    # A batch, and Celery's time to exit.
    limit = 20
    options: Any = {"workers": 2, "concurrency": 1, "flower_port": None, "log_dir": tmp_path}
    variables = harness.env | {"USAGE_FLUSH_BUDGET": "3600"}
    with Supervisor(harness.database, harness.redis_url, **options, variables=variables) as stack:
        stack.wait_ready(180)
        with harness.publishers(tmp_path, 2, 2_000):
            eventually(partial(harness.has_counted, 500), 30)
            victim = stack.pids["worker1"]
            family = descendants(victim)
            if name == "worker":
                os.kill(victim, signal.SIGTERM)
                eventually(lambda: process_state(victim) in ("", "Z"), limit)
                await_end(family)
            else:
                os.kill(min(process.pid for process in family), signal.SIGTERM)
        eventually(harness.settled, 60)
    harness.check()
