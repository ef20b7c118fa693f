"""Entries that leave a stream uncounted are a figure, and nothing else is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis

from tests.helpers import eventually
from usage_worker.queue.accounting import counted_key
from usage_worker.queue.entry import Pack
from usage_worker.queue.stream import GROUP, EventStream
from usage_worker.service.app import make_app
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import IngestHarness

KEY = "usage:events:{0}"


@pytest.fixture
def stream(redis_url: str) -> Iterator[EventStream]:
    with closing(EventStream(redis_url, 1)) as stream:
        yield stream


def add(stream: EventStream, entries: int) -> None:
    stream.append((0, Pack.of_objects(uuid4(), [b"{}"])) for _ in range(entries))


def read(stream: EventStream, count: int) -> list[str]:
    return [entry.entry_id for entry in stream.read(0, "worker", count)]


def look(stream: EventStream) -> int:
    return stream.vanished(0).entries


def entry_ids(client: redis.Redis) -> list[bytes]:
    entries: Any = client.xrange(KEY)
    return [entry_id for entry_id, _ in entries]


def consumers(client: redis.Redis, key: str = KEY) -> list[bytes]:
    found: Any = client.xinfo_consumers(key, GROUP)
    return [consumer["name"] for consumer in found]


@pytest.fixture
def half_counted(stream: EventStream) -> EventStream:
    """Return a stream to which 20 entries were added, of which 10 were counted."""
    add(stream, 20)
    stream.done(0, read(stream, 10))
    assert stream.vanished(0) == (0, None, 0)
    return stream


LOSSES: dict[str, tuple[Callable[[redis.Redis], object], int]] = {
    "XTRIM": (lambda client: client.xtrim(KEY, 3, approximate=False), 7),
    "MAXLEN": (lambda client: client.xadd(KEY, {"v": "1"}, maxlen=1, approximate=False), 10),
    "XDEL": (lambda client: client.xdel(KEY, *entry_ids(client)[4:6]), 2),
    "DEL": (lambda client: client.delete(KEY), 10),
    "DEL, then a new stream": (lambda client: (client.delete(KEY), client.xadd(KEY, {"v": "1"})), 10),
    "RENAME": (lambda client: client.rename(KEY, "usage:away"), 10),
}


@pytest.mark.parametrize("name", LOSSES)
def test_lost_entries_are_counted_once(half_counted: EventStream, redis_client: redis.Redis, name: str) -> None:
    act, lost = LOSSES[name]
    act(redis_client)
    assert look(half_counted) == lost
    half_counted.done(0, read(half_counted, 100))
    assert look(half_counted) == lost
    add(half_counted, 30)
    half_counted.done(0, read(half_counted, 100))
    figure = half_counted.vanished(0)
    assert figure.entries == lost
    assert figure.seconds is not None
    assert figure.seconds < 60


HARMLESS: dict[str, Callable[[redis.Redis], object]] = {
    "the group is destroyed": lambda client: client.xgroup_destroy(KEY, GROUP),
    "the accounting is deleted": lambda client: client.delete(counted_key(0)),
    "everything is deleted": lambda client: client.flushdb(),
    "the empty stream is deleted": lambda client: client.delete(KEY),
    "the empty stream is made again": lambda client: (client.delete(KEY), client.xgroup_create(KEY, GROUP, "0", True)),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_nothing_vanishes_where_everything_was_counted(
    half_counted: EventStream, redis_client: redis.Redis, name: str
) -> None:
    half_counted.done(0, read(half_counted, 10))
    HARMLESS[name](redis_client)
    assert half_counted.vanished(0) == (0, None, 0)
    add(half_counted, 5)
    half_counted.done(0, read(half_counted, 2))
    redis_client.xgroup_destroy(KEY, GROUP)
    half_counted.done(0, read(half_counted, 10))
    assert half_counted.vanished(0) == (0, None, 0)
    assert redis_client.xlen(KEY) == 0


def test_larger_new_stream_hides_no_loss(half_counted: EventStream, redis_client: redis.Redis) -> None:
    redis_client.delete(KEY)
    add(half_counted, 50)
    assert look(half_counted) == 10
    redis_client.xtrim(KEY, 20, approximate=False)
    assert look(half_counted) == 40


def test_accounting_begins_with_group_of_filled_stream(stream: EventStream, redis_client: redis.Redis) -> None:
    add(stream, 10)
    redis_client.xtrim(KEY, 6, approximate=False)  # before anybody looked
    read(stream, 1)
    redis_client.xtrim(KEY, 4, approximate=False)
    assert look(stream) == 2


def test_group_of_somebody_else_is_no_obstacle(stream: EventStream, redis_client: redis.Redis) -> None:
    redis_client.xgroup_create(KEY, GROUP, "0", mkstream=True)
    redis_client.xgroup_create(KEY, "theirs", "0")
    add(stream, 4)
    redis_client.xreadgroup("theirs", "them", {KEY: ">"})
    stream.done(0, read(stream, 3))
    assert stream.vanished(0) == (0, None, 0)
    assert (stream.backlog(0).entries, stream.backlog(0).pending) == (1, 0)


FOREIGN = [
    {"base": "-1", "vanished": "nan", "entries": "999999999999999999999", "added": "x"},
    *({field: text} for field in ("base", "entries", "added", "vanished") for text in ("nan", "9" * 30)),
    # The base of a stream that was made again is negative, and never so far.
    {"base": "-90000000000000"},
    {"entries": "-5", "vanished": "-5"},
    {"entries": ""},
    {"vanished_at": "99999999999"},
    {"vanished_at": "nan"},
]


@pytest.mark.parametrize("fields", FOREIGN, ids=str)
def test_foreign_numbers_end_with_next_look(
    half_counted: EventStream, redis_client: redis.Redis, fields: dict[str, str]
) -> None:
    redis_client.hset(counted_key(0), mapping=fields)  # type: ignore[arg-type]
    assert half_counted.vanished(0, keep=False) == (0, None, 0)
    half_counted.done(0, read(half_counted, 2))
    assert half_counted.vanished(0) == (0, None, 0)
    redis_client.xtrim(KEY, 3, approximate=False)
    entries, seconds, _ = half_counted.vanished(0)
    assert entries == 5
    assert seconds is not None
    assert 0 <= seconds < 60


def test_foreign_count_of_entries_is_replaced_where_a_user_may_not_ask(
    half_counted: EventStream, redis_client: redis.Redis, redis_worker_url: str
) -> None:
    redis_client.hset(counted_key(0), "entries", "nan")
    redis_client.acl_setuser("usage-worker", enabled=True, commands=["-xinfo"])
    try:
        with closing(EventStream(redis_worker_url, 1)) as stream:
            stream.done(0, read(half_counted, 5))
    finally:
        redis_client.acl_setuser("usage-worker", enabled=True, commands=["+xinfo"])
    assert half_counted.vanished(0) == (0, None, 0)


def test_acknowledgement_alone_counts_nothing(half_counted: EventStream, redis_client: redis.Redis) -> None:
    entries = read(half_counted, 10)
    redis_client.xdel(KEY, *entries[:4])
    half_counted.done(0, entries)
    half_counted.done(0, entries)
    assert look(half_counted) == 4
    assert redis_client.hget(counted_key(0), "entries") == b"16"
    backlog = half_counted.backlog(0)
    assert (backlog.entries, backlog.pending, backlog.oldest_id) == (0, 0, "")


def test_many_entries_are_done_at_once(stream: EventStream) -> None:
    add(stream, 9_000)
    stream.done(0, read(stream, 9_000))
    assert stream.backlog(0).entries == 0
    assert stream.vanished(0) == (0, None, 0)


def test_accounting_is_exact_on_full_redis(half_counted: EventStream, redis_client: redis.Redis) -> None:
    before: Any = redis_client.config_get("maxmemory")
    try:
        redis_client.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            redis_client.set("one", "more")
        redis_client.xtrim(KEY, 6, approximate=False)
        redis_client.script_flush()
        half_counted.done(0, read(half_counted, 10))
        assert look(half_counted) == 4
        assert redis_client.xlen(KEY) == 0
    finally:
        redis_client.config_set("maxmemory", before["maxmemory"])


def test_counted_and_redelivered_events_do_not_vanish(harness: IngestHarness) -> None:
    for _ in range(3):
        harness.publish({"user_id": harness.users[0], "agent_id": harness.agents[0]}, counted=False)
        harness.flush()
    harness.xadd("not JSON")
    harness.flush()
    assert [harness.resources.stream.vanished(shard) for shard in range(2)] == [(0, None, 0)] * 2


def test_heartbeat_looks_at_each_shard_and_keeps_live_consumers(redis_url: str, redis_client: redis.Redis) -> None:
    key = "usage:events:{1}"
    redis_client.xgroup_create(key, GROUP, "0", mkstream=True)
    for number in range(50):
        redis_client.xgroup_createconsumer(key, GROUP, f"new-{number}")
    with make_app(Settings(REDIS_URL=redis_url)) as app, closing(app.usage_resources):
        app.tasks["monitoring.heartbeat"]()
        assert len(consumers(redis_client, key)) == 50
        assert redis_client.exists(counted_key(0), counted_key(1)) == 2


def test_only_idle_consumers_without_entries_are_removed(stream: EventStream, redis_client: redis.Redis) -> None:
    add(stream, 2)
    held = read(stream, 1)
    for number in range(50):
        redis_client.xgroup_createconsumer(KEY, GROUP, f"dead-{number}")
    assert stream.sweep_consumers(0, idle=3600) == 0
    eventually(lambda: all(it["idle"] > 20 for it in redis_client.xinfo_consumers(KEY, GROUP)))
    assert stream.sweep_consumers(0, idle=0.02) == 50
    assert consumers(redis_client) == [b"worker"]
    assert stream.backlog(0).pending == len(held) == 1
    assert stream.sweep_consumers(1) == 0


def test_nothing_vanishes_where_a_user_may_not_ask(
    half_counted: EventStream, redis_client: redis.Redis, redis_worker_url: str
) -> None:
    redis_client.acl_setuser("usage-worker", enabled=True, commands=["-xinfo"])
    try:
        with closing(EventStream(redis_worker_url, 1)) as stream:
            assert stream.vanished(0) == (0, None, 0)
            stream.done(0, read(half_counted, 5))
    finally:
        redis_client.acl_setuser("usage-worker", enabled=True, commands=["+xinfo"])
    assert half_counted.vanished(0) == (0, None, 0)
