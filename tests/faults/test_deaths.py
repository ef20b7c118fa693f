"""An entry that ends its workers is tried alone, then set aside; what else happens to a worker counts for no entry."""

from __future__ import annotations

import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from tests.faults.flusher import DECODING
from tests.faults.harness import process_state
from tests.helpers import eventually
from tests.sql import query
from usage_worker.errors import UsageError
from usage_worker.interrupts import EXIT_INTERRUPTED
from usage_worker.queue.holding import DEATHS_BEFORE_ALONE, DEATHS_BEFORE_LEFT, KEPT_SECONDS, deaths_key, mark_key
from usage_worker.queue.letter_events import restore
from usage_worker.queue.stream import GROUP
from usage_worker.service.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.harness import Harness
    from usage_worker.local import EmbeddedValkey

STREAM = "usage:events:{0}"
DEADLY: dict[str, str] = {"v": "1", "n": "2", "events": '["deadly", "one"]', "colour": "red"}


@pytest.fixture(autouse=True)
def quick(harness: Harness) -> None:
    harness.env["USAGE_RECLAIM_IDLE"] = "0.3"


def add_entries(harness: Harness, count: int = 12, seed: int = 1) -> list[str]:
    """Add entries of one event each to shard 0; return their ids."""
    return [harness.xadd([event], 0) for event in harness.traffic(count, seed=seed)]


def deaths(harness: Harness) -> dict[str, int]:
    found: Any = harness.redis.hgetall(deaths_key(0))
    return {entry_id.decode(): int(count) for entry_id, count in found.items()}


def marks(harness: Harness) -> int:
    return sum(1 for _ in harness.redis.scan_iter("usage:holding:*"))


def test_entry_that_kills_its_workers_is_set_aside(harness: Harness) -> None:
    """Its neighbours of the same read die with it at first, and are all counted."""
    add_entries(harness, 6)
    deadly: Any = harness.redis.xadd(STREAM, DEADLY)  # type: ignore[arg-type]
    add_entries(harness, 6, seed=2)
    harness.sent += 2
    kills = 0
    while not harness.settled():
        with harness.workers(1, DECODING) as (worker,):
            eventually(lambda: worker.poll() is not None or harness.settled(), 30)
            kills += worker.poll() == -signal.SIGKILL
        assert kills <= DEATHS_BEFORE_ALONE + 1
    assert kills == DEATHS_BEFORE_ALONE + 1
    assert harness.intake == (14, 12, 0, 2)
    (dead_letter,) = harness.resources.store.rows(query("dead_letters"))
    assert dead_letter["reason"] == "the entry ended every worker that read it; it was not decoded again"
    assert (dead_letter["entry_id"], dead_letter["events"]) == (deadly.decode(), 2)
    assert restore(dead_letter) == {name.encode(): value.encode() for name, value in DEADLY.items()}
    assert deaths(harness) == {}


def test_entry_whose_worker_dies_later_is_tried_alone_again(harness: Harness) -> None:
    """A worker that is killed while it counts was hardly killed by the entry that it happens to hold."""
    (entry_id,) = add_entries(harness, 1)
    assert len(harness.resources.stream.read(0, "dead", 10)) == 1
    harness.redis.hset(deaths_key(0), entry_id, str(DEATHS_BEFORE_ALONE))
    with harness.workers(1, "inside the transaction") as (worker,):
        assert worker.wait(120) == -signal.SIGKILL
    with harness.workers(1):
        eventually(harness.settled, 30)
    harness.check()


def test_entry_that_cannot_even_be_read_stays(harness: Harness) -> None:
    """It hides none of the entries behind it that a dead worker has, too."""
    left: Any = {harness.redis.xadd(STREAM, DEADLY): str(DEATHS_BEFORE_LEFT) for _ in range(20)}  # type: ignore[arg-type]
    add_entries(harness, 3)
    assert len(harness.resources.stream.read(0, "dead", 100)) == 23
    harness.redis.hset(deaths_key(0), mapping=left)
    assert eventually(lambda: harness.resources.flusher.flush(0).intake.accepted, 10) == 3
    assert harness.resources.stream.backlog(0)[:2] == (20, 20)


def test_worker_that_waits_for_lock_is_not_dead(harness: Harness) -> None:
    """Others reclaim its entries again and again, and wait for the same row."""
    harness.env["USAGE_RECLAIM_IDLE"] = "3"
    add_entries(harness, 4)
    harness.drain()
    add_entries(harness, 4)
    with psycopg.connect(harness.database) as holder:
        holder.execute("SELECT FROM user_agents FOR UPDATE")
        with harness.workers(3):
            eventually(lambda: delivered(harness) >= 3, 30)
            assert deaths(harness) == {}
            holder.rollback()
            eventually(harness.settled, 30)
    assert deaths(harness) == {}
    harness.check()


def delivered(harness: Harness) -> int:
    """Return how often the entries that wait were delivered, at most."""
    pending: Any = harness.redis.xpending_range(STREAM, GROUP, "-", "+", 10)
    return max((int(entry["times_delivered"]) for entry in pending), default=0)


def test_deaths_of_stopped_worker_end_when_it_goes_on(harness: Harness) -> None:
    add_entries(harness)
    with harness.workers(1, "inside the transaction", "STOP") as (sleeper,):
        eventually(lambda: process_state(sleeper.pid) == "T", 30)
        # On a busy machine the entries are old enough before the mark is: nobody has died then.
        eventually(lambda: mark_age(harness) > 500, 10)
        with closing(Resources(harness.resources.settings.model_copy(update={"reclaim_idle": 0.3}))) as other:
            eventually(lambda: other.stream.reclaim(0, "another", 100, 0.3), 10)
        assert set(deaths(harness).values()) == {1}
        sleeper.send_signal(signal.SIGCONT)
        eventually(lambda: deaths(harness) == {}, 10)
        eventually(harness.settled, 30)
    harness.check()


def mark_age(harness: Harness) -> int:
    """Return the milliseconds since the only mark was renewed."""
    (mark,) = harness.redis.scan_iter("usage:holding:*")
    left: Any = harness.redis.pttl(mark)
    return KEPT_SECONDS * 1_000 - int(left)


def test_worker_that_fails_has_not_died(harness: Harness) -> None:
    """Any exception is an orderly end, and so is SIGTERM."""
    add_entries(harness)
    with psycopg.connect(harness.database, autocommit=True) as connection:
        connection.execute("ALTER TABLE usage_intake RENAME TO intake")
        for _ in range(DEATHS_BEFORE_ALONE + 1):
            eventually(lambda: fails(harness), 30)
            assert marks(harness) == 0
        connection.execute("ALTER TABLE intake RENAME TO usage_intake")
    with harness.workers(1):
        add_entries(harness, seed=2)
        eventually(harness.settled, 30)
    assert marks(harness) == 0
    assert deaths(harness) == {}
    harness.check()


def test_drain_that_is_stopped_has_not_died(harness: Harness) -> None:
    add_entries(harness, 2)
    harness.drain()
    add_entries(harness, 2)
    with psycopg.connect(harness.database) as holder:
        holder.execute("SELECT FROM user_agents FOR UPDATE")
        process = harness.command("usage_worker.cli", "drain")
        eventually(lambda: delivered(harness) == 1, 30)
        process.terminate()
        assert process.wait(120) == EXIT_INTERRUPTED
    assert marks(harness) == 0
    harness.drain()
    harness.check()


@pytest.fixture
def elsewhere(harness: Harness, durable_valkey: EmbeddedValkey) -> Iterator[Harness]:
    """Return the harness on a server whose settings a test may change."""
    harness.resources.close()
    harness.redis.close()
    url = durable_valkey.url(4)
    harness.resources = Resources(harness.resources.settings.model_copy(update={"redis_url": url}))
    harness.redis = redis.Redis.from_url(url, protocol=2)
    yield harness
    harness.redis.config_set("maxmemory", "0")
    harness.redis.flushdb()


def test_deaths_are_counted_on_full_server(elsewhere: Harness) -> None:
    entry_ids = add_entries(elsewhere, 3)
    stream = elsewhere.resources.stream
    assert len(stream.read(0, "dead", 10)) == 3
    elsewhere.redis.set(mark_key(0, "dead"), "", ex=KEPT_SECONDS - 60)
    elsewhere.redis.config_set("maxmemory", "1mb")
    eventually(lambda: stream.reclaim(0, "another", 10, 0.01), 10)
    assert deaths(elsewhere) == dict.fromkeys(entry_ids, 1)
    assert elsewhere.redis.exists(mark_key(0, "another"))
    eventually(lambda: elsewhere.resources.flusher.flush(0).intake.applied == 3, 10)
    assert (deaths(elsewhere), marks(elsewhere)) == ({}, 2)


def fails(harness: Harness) -> bool:
    try:
        harness.resources.flusher.flush(0)
    except UsageError:
        return True
    return False
