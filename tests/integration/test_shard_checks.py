"""Backlogs are healthy while they are worked off, however long a batch and a round of the shards take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_checks import Service

if TYPE_CHECKING:
    from tests.integration.conftest import IngestHarness

# Seconds: the longest batch that was measured, and a flush that begins its last one at the end of its budget.
BATCH, FLUSH = 12, 10 + 12
STREAM = "usage:events:{0}"


@pytest.fixture
def service(harness: IngestHarness) -> Service:
    service = Service(harness)
    service.add_old()
    return service


def age(service: Service, shard: int, **seconds: float) -> None:
    """Make times of a shard's flush record older."""
    for name, ago in seconds.items():
        at: Any = service.redis.hget(f"usage:flush:{{{shard}}}", name)
        service.redis.hset(f"usage:flush:{{{shard}}}", name, float(at) - ago)


def deliver(service: Service, times: int, idle: int) -> None:
    """Leave the entry of shard 0 as consumers do that have read it so often, the last one `idle` seconds ago."""
    service.harness.worker.stream.read(0, "first", 1)
    entries: Any = service.redis.xrange(STREAM, count=1)
    service.redis.xclaim(STREAM, "usage", "last", 0, [entries[0][0]], idle=idle * 1000, retrycount=times, justid=True)


@pytest.mark.parametrize("deaths", [1, 2])
@pytest.mark.parametrize("is_backlog", [True, False])
def test_entry_of_dead_workers_that_is_being_counted(service: Service, deaths: int, is_backlog: bool) -> None:
    service.records.counted(0, 1, 0)
    age(service, 0, counted=0 if is_backlog else 60)
    deliver(service, deaths + 1, idle=BATCH)
    assert service.problems() == {}


def test_entry_of_dead_worker_that_nobody_counts(service: Service) -> None:
    service.records.counted(0, 1, 0)  # others are counted meanwhile
    deliver(service, 2, idle=21)
    assert "it was delivered 2 times" in service.problems()["oldest_entry"]


def test_entry_that_ends_every_batch(service: Service) -> None:
    service.records.counted(0, 1, 0)
    deliver(service, 4, idle=1)
    assert "it was delivered 4 times" in service.problems()["oldest_entry"]


def test_entry_whose_batch_failed_again(service: Service) -> None:
    service.records.counted(0, 1, 0)
    service.records.failed(0, "not this one")
    deliver(service, 2, idle=0)
    assert service.problems() == {}  # that was before the delivery
    deliver(service, 2, idle=1)
    service.records.succeeded(0)  # later flushes find nothing that they may take
    assert "a flush failed: not this one" in service.problems()["oldest_entry"]


def test_entry_whose_events_wait_for_held_rows_again(service: Service) -> None:
    service.records.counted(0, 1, 0)
    deliver(service, 2, idle=1)
    service.records.waiting(0, "held by somebody")
    assert service.problems().keys() == {"held_rows", "oldest_entry"}


def test_shards_take_turns_where_processes_are_few(service: Service) -> None:
    """One process has just counted the other shard for a whole flush, and its own first batch is not counted yet."""
    service.records.counted(0, 1, 0)
    service.records.counted(1, 1, 0)
    age(service, 0, counted=FLUSH + BATCH)
    assert service.problems() == {}
    age(service, 0, counted=60 - FLUSH - BATCH)  # two flushes, with room
    assert service.problems().keys() == {"oldest_entry"}


def test_shard_without_a_turn_yet(service: Service) -> None:
    """Its first entry has waited for less than a round of eight shards."""
    service.settings = service.settings.model_copy(update={"stream_shards": 8})
    service.worker("worker@here", "counting", "maintenance", shards=8)
    service.redis.delete(STREAM)
    service.add_old(minutes=3)
    service.records.counted(5, 1, 0)
    assert service.problems() == {}
    age(service, 5, counted=21)
    assert "nothing was ever counted" in service.problems()["oldest_entry"]


def test_flush_that_failed_once(service: Service) -> None:
    """Its batch failed at the end; a tick has begun it again."""
    service.redis.delete(STREAM)
    service.records.failed(0, "the primary is gone")
    age(service, 0, succeeded=8 + 10 + 8, failed=10 + 8)
    assert service.problems() == {}
    age(service, 0, succeeded=5)
    assert "none has succeeded for 3" in service.problems()["flush"]
