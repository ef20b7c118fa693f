"""With USAGE_REDIS_REPLICAS, an event counts as sent when replicas have it, whoever appends it."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.helpers import eventually
from tests.redis_nodes import HOST, RedisNode
from usage_worker.errors import StreamRefusedError, StreamUnavailableError
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.entry import Pack
from usage_worker.queue.stream import EventStream
from usage_worker.settings import PublisherSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "usage:events:{0}"
PACK = Pack.of_objects(uuid4(), [b"{}"])


@pytest.fixture(scope="module")
def pair(module_folder: Path) -> Iterator[tuple[RedisNode, RedisNode]]:
    """Return a primary and its replica."""
    settings = {"appendonly": "no"}
    with (
        RedisNode(module_folder / "primary", settings) as primary,
        RedisNode(module_folder / "replica", settings) as replica,
    ):
        yield primary, replica


@pytest.fixture
def primary(pair: tuple[RedisNode, RedisNode]) -> RedisNode:
    """Return the primary, empty and with its replica."""
    primary, replica = pair
    replica.connection.replicaof(HOST, primary.port)
    eventually(lambda: replica.replication["master_link_status"] == "up")
    eventually(lambda: primary.connection.wait(1, 100))
    primary.connection.flushdb()
    return primary


@pytest.fixture
def replica(pair: tuple[RedisNode, RedisNode]) -> RedisNode:
    return pair[1]


def cut_off(primary: RedisNode, replica: RedisNode) -> None:
    replica.connection.replicaof("NO", "ONE")
    eventually(lambda: primary.replication["connected_slaves"] == 0)


def publisher(primary: RedisNode, replicas: int = 1) -> UsagePublisher:
    settings = PublisherSettings(redis_url=primary.tcp_url(), redis_replicas=replicas, stream_shards=1)
    return UsagePublisher(settings=settings, linger=0)


def test_sent_event_is_on_the_replica(primary: RedisNode, replica: RedisNode) -> None:
    with publisher(primary) as sender:
        for number in range(1, 21):
            sender.track(uuid4(), uuid4())
            assert sender.flush(60)
            assert replica.connection.xlen(KEY) == number


def test_events_wait_without_replica_and_are_sent_with_it(primary: RedisNode, replica: RedisNode) -> None:
    cut_off(primary, replica)
    with publisher(primary) as sender:
        began = time.monotonic()
        assert sender.track(uuid4(), uuid4())
        assert time.monotonic() - began < 0.9
        reason = eventually(lambda: sender.stats().holding)
        assert "0 of 1 replicas have the entries; start the others, or lower USAGE_REDIS_REPLICAS" in reason
        assert sender.stats().buffered == 1
        copies = primary.connection.xlen(KEY)
        assert not sender.flush(1)
        assert primary.connection.xlen(KEY) == copies == 1  # nothing more is added until the replica is back
        replica.connection.replicaof(HOST, primary.port)
        assert sender.flush(20)
        assert sender.stats().holding == ""
    entries: Any = replica.connection.xrange(KEY)
    assert len(entries) == 2
    assert len({fields["id"] for _, fields in entries}) == 1


def test_hanging_replica_is_none(primary: RedisNode, replica: RedisNode) -> None:
    replica.pause()
    try:
        with (
            closing(EventStream(primary.tcp_url(), 1, replicas=1)) as stream,
            pytest.raises(StreamUnavailableError, match="0 of 1 replicas"),
        ):
            stream.append([(0, PACK)])
    finally:
        replica.resume()


def test_fewer_replicas_than_wanted_are_too_few(primary: RedisNode) -> None:
    with closing(EventStream(primary.tcp_url(), 1, replicas=2)) as stream:
        with pytest.raises(StreamUnavailableError, match="1 of 2 replicas"):
            stream.append([(0, PACK)])
        with pytest.raises(StreamUnavailableError, match="1 of 2 replicas"):
            stream.append([(0, PACK)])
    assert primary.connection.xlen(KEY) == 1


def test_user_who_may_not_wait_is_told_so(primary: RedisNode) -> None:
    primary.ask("ACL", "SETUSER", "hasty", "on", "nopass", "allkeys", "+@all", "-wait")
    with closing(EventStream(primary.tcp_url().replace("//", "//hasty:x@"), 1, replicas=1)) as stream:
        for _ in range(2):
            with pytest.raises(StreamRefusedError, match="'wait' command"):
                stream.append([(0, PACK)])
    assert primary.connection.xlen(KEY) == 1


def test_default_waits_for_nobody(primary: RedisNode, replica: RedisNode) -> None:
    cut_off(primary, replica)
    with publisher(primary, replicas=0) as sender:
        sender.track(uuid4(), uuid4())
        assert sender.flush(10)
