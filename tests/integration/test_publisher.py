"""The publisher against a healthy, a refusing, a hanging, a full and a restarted Redis."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4, uuid5

import pytest
import redis

from tests.helpers import eventually
from usage_worker.events.event import KEY_NAMESPACE, microseconds
from usage_worker.local import EmbeddedValkey
from usage_worker.publisher import UsagePublisher, context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER, AGENT = uuid4(), uuid4()


def entries(client: redis.Redis) -> list[dict[bytes, bytes]]:
    found: Any = [fields for shard in range(2) for _, fields in client.xrange(f"usage:events:{{{shard}}}")]  # type: ignore[union-attr]
    return list(found)


def events_in(client: redis.Redis) -> int:
    return sum(int(fields[b"n"]) for fields in entries(client))


@contextmanager
def hanging_server() -> Iterator[str]:
    """Listen on a port, accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def refusing_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"redis://127.0.0.1:{port}/0"


def test_events_are_packed(redis_url: str, redis_client: redis.Redis) -> None:
    with UsagePublisher(redis_url, linger=0.05) as publisher:
        for _ in range(1_200):
            assert UUID(publisher.track(USER, AGENT, input_tokens=1))
        assert publisher.flush()
        stats = publisher.stats()
    assert (stats.accepted, stats.sent, stats.buffered, stats.dropped, stats.refused) == (1_200, 1_200, 0, 0, 0)
    assert events_in(redis_client) == 1_200
    assert len(entries(redis_client)) < 20


def test_user_stays_on_one_shard(redis_url: str, redis_client: redis.Redis) -> None:
    with UsagePublisher(redis_url) as publisher:
        for _ in range(50):
            publisher.track(USER, uuid4())
    lengths = [redis_client.xlen(f"usage:events:{{{shard}}}") for shard in range(2)]
    assert sorted(bool(length) for length in lengths) == [False, True]


def test_calls_are_sent_with_what_their_responses_say(redis_url: str, redis_client: redis.Redis) -> None:
    response = {"model": "gpt-5", "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    with UsagePublisher(redis_url, linger=3600) as publisher, context(user_id=USER, agent_id=AGENT):
        assert publisher.track_response(response=response, conversation_id=USER)
        with publisher.measure() as call:
            call.response = response
        assert list(publisher.stream(chunks=[response])) == [response]
    (entry,) = entries(redis_client)
    columns = json.loads(entry[b"events"])
    assert (columns["user_id"], columns["agent_id"]) == ([USER.hex] * 3, [AGENT.hex] * 3)
    assert (columns["input_tokens"], columns["output_tokens"], columns["model"]) == ([10] * 3, [5] * 3, ["gpt-5"] * 3)
    assert columns["response_time_ms"][0] is None
    assert all(type(time) is int for time in columns["response_time_ms"][1:])


def test_rate_sends_rating_event(redis_url: str, redis_client: redis.Redis) -> None:
    with UsagePublisher(redis_url) as publisher:
        publisher.rate(USER, AGENT, 4.5)
    (entry,) = entries(redis_client)
    columns = json.loads(entry[b"events"])
    assert (entry[b"v"], entry[b"n"], b"times" in entry) == (b"2", b"1", False)
    assert columns.keys() == {"event_id", "occurred_at", "type", "user_id", "agent_id", "rating"}
    assert (columns["type"], columns["user_id"], columns["rating"]) == (["rating"], [USER.hex], [45_000_000_000])


def test_bad_fields_are_refused_and_counted_never_raised(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with UsagePublisher(redis_url) as publisher, caplog.at_level(logging.WARNING):
        assert publisher.track("not a uuid", AGENT) is None
        assert publisher.track(USER, AGENT, cost_usd="-1") is None
        assert publisher.track(USER, AGENT, event_id="k" * 256) is None
        assert publisher.stats().refused == 3
    assert "user_id: Input should be a valid UUID" in caplog.text


@pytest.mark.parametrize("state", ["refusing", "hanging"])
def test_track_never_blocks(state: str, caplog: pytest.LogCaptureFixture) -> None:
    """Calls are compared with calls while nothing is sent, so that the speed of the machine does not matter."""
    with hanging_server() as hanging:
        publisher = UsagePublisher(f"{hanging}?socket_timeout=60" if state == "hanging" else refusing_url(), linger=0)
        longest = 0.0
        for _ in range(2_000):
            started = time.perf_counter()
            assert publisher.track(USER, AGENT) is not None
            longest = max(longest, time.perf_counter() - started)
        # A connection attempt takes a socket timeout of 60 s here; a call that did I/O would show it.
        assert longest < 20
        assert publisher.stats().buffered == 2_000
        started = time.perf_counter()
        with caplog.at_level(logging.ERROR):
            publisher.close(timeout=0.2)
        assert time.perf_counter() - started < 20
    assert publisher.stats().dropped == 2_000
    assert "2000 events dropped at close" in caplog.text


def test_events_dropped_by_full_buffer_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    publisher = UsagePublisher(refusing_url(), buffer_bytes=2_000, linger=60)
    with caplog.at_level(logging.ERROR):
        results = [publisher.track(USER, AGENT) for _ in range(100)]
    stats = publisher.stats()
    assert results.count(None) == stats.dropped > 0
    assert stats.buffered == 100 - stats.dropped > 0
    assert "the buffer is full" in caplog.text
    publisher.close(timeout=0)


def test_closed_publisher_drops_and_logs(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    publisher = UsagePublisher(redis_url)
    publisher.close()
    with caplog.at_level(logging.ERROR):
        assert publisher.track(USER, AGENT) is None
    assert publisher.stats().dropped == 1
    assert "event dropped: the publisher is closed" in caplog.text


def test_publisher_resumes_when_redis_returns(server_folder: Path) -> None:
    with EmbeddedValkey(server_folder / "comes-back") as server, UsagePublisher(server.url(), linger=0) as publisher:
        publisher.track(USER, AGENT)
        assert publisher.flush()
        server.stop()
        for _ in range(10):
            publisher.track(USER, AGENT)
        eventually(lambda: publisher.stats().holding)
        server.start()
        assert publisher.flush(30)
        assert publisher.stats().sent == 11
        assert publisher.stats().holding == ""


def test_publisher_holds_events_before_redis_is_full(server_folder: Path) -> None:
    with (
        EmbeddedValkey(server_folder / "full", {"maxmemory-policy": "noeviction"}) as server,
        redis.Redis.from_url(server.url()) as client,
        UsagePublisher(server.url(), linger=0) as publisher,
    ):
        used: Any = client.info("memory")
        client.config_set("maxmemory", int(used["used_memory"] / 0.85))
        publisher.track(USER, AGENT)
        assert "its memory is" in eventually(lambda: publisher.stats().holding)
        assert client.xlen("usage:events:{0}") == client.xlen("usage:events:{1}") == 0
        client.config_set("maxmemory", 0)
        assert publisher.flush(30)
        assert publisher.stats().sent == 1


def test_backfill_leaves_memory_to_live_events(server_folder: Path) -> None:
    with (
        EmbeddedValkey(server_folder / "half", {"maxmemory-policy": "noeviction"}) as server,
        redis.Redis.from_url(server.url()) as client,
        UsagePublisher(server.url(), linger=0) as publisher,
        UsagePublisher(server.url(), linger=0, backfill=True) as backfill,
    ):
        used: Any = client.info("memory")
        client.config_set("maxmemory", int(used["used_memory"] / 0.6))
        backfill.track(USER, AGENT)
        assert "its memory is more than 50% full" in eventually(lambda: backfill.stats().holding)
        publisher.track(USER, AGENT)
        assert publisher.flush(30)
        client.config_set("maxmemory", 0)
        assert backfill.flush(30)


def test_key_without_time_is_never_backfill(redis_url: str, redis_client: redis.Redis) -> None:
    """The first time of a key is kept for the acceptance window only."""
    with UsagePublisher(redis_url, linger=0, backfill=True) as publisher:
        publisher.track(USER, AGENT, event_id="order-7")
        publisher.track(USER, AGENT)
        assert publisher.flush()
    marks = {(fields.get(b"times"), fields.get(b"backfill")) for fields in entries(redis_client)}
    assert marks == {(None, b"1"), (b"publisher", None)}


def test_forked_child_sends_only_its_own_events(redis_url: str, redis_client: redis.Redis) -> None:
    publisher = UsagePublisher(redis_url, linger=60)
    publisher.track(USER, AGENT)
    child = os.fork()
    if child == 0:
        publisher.track(USER, AGENT)
        os._exit(0 if publisher.flush() and publisher.stats().sent == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert publisher.flush()
    publisher.close()
    assert events_in(redis_client) == 2


def test_program_exit_sends_buffered_events(redis_url: str, redis_client: redis.Redis) -> None:
    program = """if True:
        import sys, uuid
        from usage_worker import UsagePublisher
        publisher = UsagePublisher(sys.argv[1], linger=60)
        publisher.track(uuid.uuid4(), uuid.uuid4())
        UsagePublisher(sys.argv[1], linger=60).track(uuid.uuid4(), uuid.uuid4())
    """
    subprocess.run([sys.executable, "-c", program, redis_url], check=True, timeout=60)
    assert events_in(redis_client) == 2


def test_publisher_loads_neither_celery_nor_psycopg() -> None:
    program = (
        "import sys, usage_worker; sys.exit(bool({'celery', 'kombu', 'psycopg', 'psycopg_pool'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_given_identity_and_time_are_unchanged(redis_url: str, redis_client: redis.Redis) -> None:
    now = datetime.now(UTC)
    key = uuid5(KEY_NAMESPACE, "order-7")
    with UsagePublisher(redis_url) as publisher:
        assert publisher.track(USER, AGENT, event_id="order-7", occurred_at=now) == str(key)
    (entry,) = entries(redis_client)
    columns = json.loads(entry[b"events"])
    assert (columns["event_id"], columns["occurred_at"]) == ([key.hex], [microseconds(now)])
