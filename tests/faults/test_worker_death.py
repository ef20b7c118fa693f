"""Workers that die, stop or are asked to stop, at every point of a batch."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.flusher import POINTS
from tests.faults.harness import NOBODY, state_of
from tests.helpers import await_end, descendants, eventually
from usage_worker.local.supervisor import Supervisor
from usage_worker.queue.stream import GROUP

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.harness import Arena

COMMITTED = POINTS[3:]


def with_duplicates(arena: Arena) -> None:
    events = arena.traffic(800)
    unknown_pairs = [event | {"user_id": NOBODY} for event in arena.traffic(5, seed=9)]
    arena.publish([*events, *events[:50], *unknown_pairs])


@pytest.mark.parametrize("point", POINTS)
def test_killed(arena: Arena, point: str) -> None:
    with_duplicates(arena)
    with arena.workers(1, point) as (victim,):
        assert victim.wait(30) == -signal.SIGKILL
        assert arena.pending > 0
        assert (arena.intake.accepted > 0) == (point in COMMITTED)
    with arena.workers(2):
        eventually(arena.settled, 30)
    arena.check()


@pytest.mark.parametrize("point", POINTS)
def test_stopped_longer_than_the_reclaim_time(arena: Arena, point: str) -> None:
    """The others count its batch; when it goes on, it must not count it again."""
    with_duplicates(arena)
    with arena.workers(1, point, "STOP") as (sleeper,):
        eventually(lambda: state_of(sleeper.pid) == "T", 30)
        with arena.workers(2):
            eventually(arena.settled, 60)
            sleeper.send_signal(signal.SIGCONT)
            arena.publish(arena.traffic(300, seed=2))
            eventually(arena.settled, 30)
            assert sleeper.poll() is None
    arena.check()


def test_a_backlog_older_than_every_timeout(arena: Arena) -> None:
    """Entries that lay for weeks, some of them in the hands of a worker that nobody remembers."""
    long_ago = datetime.now(UTC) - timedelta(days=20)
    for shard in range(2):
        for number in range(10):
            events = [
                event | {"occurred_at": long_ago + timedelta(seconds=place, microseconds=number)}
                for place, event in enumerate(arena.traffic(30, seed=10 * shard + number))
            ]
            arena.xadd(events, shard, f"{int(long_ago.timestamp() * 1000) + number}-1")
        assert len(arena.resources.stream.read(shard, "forgotten", 4)) == 4
    eventually(lambda: idle_milliseconds(arena) > 500, 10)
    with arena.workers(1):
        eventually(arena.settled, 30)
    arena.check()


def idle_milliseconds(arena: Arena) -> int:
    pending: Any = arena.redis.xpending_range("usage:events:{0}", GROUP, "-", "+", 10)
    return min(int(entry["time_since_delivered"]) for entry in pending)


@pytest.mark.parametrize("name", ["worker", "child"])
def test_real_workers_asked_to_stop_under_load(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The batch in hand is finished, or left for the next one; the worker is gone within its limit."""
    for key, value in arena.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("USAGE_FLUSH_BUDGET", "1")
    # `worker_soft_shutdown_timeout`, which Celery spends to the end where a task is running, and a little to exit.
    limit = 1 + 10 + 10
    with Supervisor(
        arena.database, arena.redis_url, workers=2, concurrency=1, flower_port=None, log_dir=tmp_path
    ) as stack:
        stack.wait_ready()
        with arena.publishers(tmp_path, 2, 2_000):
            eventually(partial(arena.has_booked, 500), 30)
            victim = stack.pids["worker1"]
            family = descendants(victim)
            if name == "worker":
                os.kill(victim, signal.SIGTERM)
                eventually(lambda: state_of(victim) in ("", "Z"), limit)
                await_end(family)
            else:
                os.kill(min(process.pid for process in family), signal.SIGTERM)
        eventually(arena.settled, 60)
    arena.check()
