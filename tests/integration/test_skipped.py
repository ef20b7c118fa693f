"""Entries that somebody makes the consumer group skip are counted nevertheless, once."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from usage_worker.queue.entry import Pack
from usage_worker.queue.stream import GROUP, EventStream
from usage_worker.service.app import make_app
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness

KEY = "usage:events:{0}"


@pytest.fixture
def stream(redis_url: str) -> Iterator[EventStream]:
    """Return a stream of six entries, of which one reader has two in hand."""
    with closing(EventStream(redis_url, 1)) as stream:
        stream.append((0, Pack.of_objects(uuid4(), [b"{}"])) for _ in range(6))
        assert len(stream.read(0, "reader", 2)) == 2
        yield stream


def set_id(client: redis.Redis) -> int:
    client.xgroup_setid(KEY, GROUP, "$")
    return 4


def delete_consumer(client: redis.Redis) -> int:
    client.xgroup_delconsumer(KEY, GROUP, "reader")
    return 2


def acknowledge(client: redis.Redis) -> int:
    entries: Any = client.xrange(KEY, count=1)
    client.xack(KEY, GROUP, entries[0][0])
    return 1


@pytest.mark.parametrize("skip", [set_id, delete_consumer, acknowledge])
def test_skipped_entries_are_reclaimed(
    stream: EventStream, redis_client: redis.Redis, skip: Callable[[redis.Redis], int]
) -> None:
    assert stream.return_skipped(0) == 0
    skipped = skip(redis_client)
    assert stream.return_skipped(0) == skipped
    assert stream.return_skipped(0) == 0
    reclaimed = stream.reclaim(0, "other", 10, 60)
    assert len(reclaimed or ()) == skipped
    assert all(entry.fields[b"events"] == b"[{}]" for entry in reclaimed or ())
    assert stream.backlog(0).pending + len(stream.read(0, "other", 10)) == 6


def test_nothing_is_skipped_without_a_group(redis_url: str) -> None:
    with closing(EventStream(redis_url, 1)) as stream:
        assert stream.return_skipped(0) == 0
        stream.append([(0, Pack.of_objects(uuid4(), [b"{}"]))])
        assert stream.return_skipped(0) == 0


def test_last_possible_id(stream: EventStream, redis_client: redis.Redis) -> None:
    """Nothing can follow it."""
    redis_client.xadd(KEY, {"v": 1}, id=f"{2**64 - 1}-{2**64 - 1}")
    assert len(stream.read(0, "reader", 10)) == 5
    assert stream.return_skipped(0) == 0
    assert stream.reclaim(0, "other", 10, 60) is None
    assert set_id(redis_client)
    redis_client.xgroup_delconsumer(KEY, GROUP, "reader")
    assert stream.return_skipped(0) == 7


@pytest.fixture
def skipped(harness: IngestHarness) -> int:
    """Send events, and make the groups skip those that wait; return their number."""
    harness.flush()
    harness.publish(*({"user_id": user, "agent_id": harness.agents[0]} for user in harness.users), counted=False)
    for shard in range(2):
        harness.redis.xgroup_setid(f"usage:events:{{{shard}}}", GROUP, "$")
    assert harness.flush().accepted == 0
    return len(harness.users)


def test_heartbeat_returns_skipped_entries(harness: IngestHarness, skipped: int, redis_worker_url: str) -> None:
    with make_app(Settings(REDIS_URL=redis_worker_url)) as app, closing(app.usage_resources):
        app.tasks["monitoring.heartbeat"]()
    assert harness.flush().applied == skipped
    assert harness.worker.stream.backlog(0).entries == harness.worker.stream.backlog(1).entries == 0


def test_drain_counts_skipped_entries(harness: IngestHarness, skipped: int, cli: Cli) -> None:
    assert "0 entries left" in cli.run("drain").stdout
    assert harness.resources.store.intake_totals().applied == skipped
