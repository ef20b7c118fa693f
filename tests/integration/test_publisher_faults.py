"""The publisher where threads, Redis or the application's environment are not as it expects."""

from __future__ import annotations

import ctypes
import gc
import logging
import resource
import threading
import weakref
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.helpers import eventually
from tests.integration.scripted_redis import ANSWERS, scripted_redis
from tests.integration.test_publisher import entries, events_in, refusing_url
from usage_worker.errors import SettingsError
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

AGENT = uuid4()
# Users of the shards 0 and 1.
USERS = UUID(int=2), UUID(int=3)


def sending_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "usage-publisher"]


@contextmanager
def no_new_threads() -> Iterator[None]:
    """Let every start of a thread fail, since the address space has no room for its stack."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = threading.stack_size(2**40)
    resource.setrlimit(resource.RLIMIT_AS, (2**38, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        threading.stack_size(size)


def sent(publisher: UsagePublisher, events: int) -> bool:
    return publisher.stats().sent == events


def test_events_wait_until_thread_can_start(
    redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with UsagePublisher(redis_url, linger=0) as publisher:
        with no_new_threads():
            assert all(publisher.track(USERS[0], AGENT) for _ in range(3))
            assert "no thread can start" in publisher.stats().holding
            assert publisher.stats().buffered == 3
        assert publisher.track(USERS[0], AGENT)
        eventually(lambda: publisher.stats().sent == 4)
        assert publisher.stats().holding == ""
    assert "events wait: no thread can start" in caplog.text
    assert events_in(redis_client) == 4


def test_flush_and_close_send_without_thread(redis_url: str, redis_client: redis.Redis) -> None:
    with no_new_threads():
        publisher = UsagePublisher(redis_url, linger=60)
        publisher.track(USERS[0], AGENT)
        assert publisher.flush()
        assert events_in(redis_client) == 1
        publisher.track(USERS[1], AGENT)
        publisher.close()
    assert events_in(redis_client) == 2
    assert (publisher.stats().sent, publisher.stats().dropped) == (2, 0)


def test_close_without_thread_and_redis_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    with no_new_threads():
        publisher = UsagePublisher(refusing_url(), linger=0)
        publisher.track(USERS[0], AGENT)
        assert not publisher.flush(0.1)
        publisher.close(0.1)
    assert publisher.stats().dropped == 1
    assert "1 events dropped at close: no thread can start" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_thread_is_replaced(redis_url: str, redis_client: redis.Redis) -> None:
    with UsagePublisher(redis_url, linger=60) as publisher:
        publisher.track(USERS[0], AGENT)
        (thread,) = sending_threads()
        # It ends with this exception when it wakes up.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        publisher.track(USERS[1], AGENT)
        eventually(lambda: not thread.is_alive())
        publisher.track(USERS[1], AGENT)
        assert sending_threads() != [thread]
        assert publisher.flush()
    assert events_in(redis_client) == 3


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
def test_unexpected_exception_is_said_and_survived(host: str, caplog: pytest.LogCaptureFixture) -> None:
    publisher = UsagePublisher(f"redis://:s3cretword@{host}:6379/0", linger=0)
    publisher.track(USERS[0], AGENT)
    assert "cannot connect with this REDIS_URL" in eventually(lambda: publisher.stats().holding)
    assert not publisher.flush(0.2)
    assert sending_threads()
    publisher.close(0)
    assert "holding events back: Redis cannot be used" in caplog.text
    assert "s3cretword" not in caplog.text


@pytest.mark.parametrize("answer", [b":5\r\n", b"$-1\r\n", b"-WEIRD answer\r\n", b"*0\r\n", b"?\r\n"])
@pytest.mark.parametrize("command", ["INFO", "TIME", "XADD"])
def test_events_wait_for_answers_that_make_sense(command: str, answer: bytes) -> None:
    with scripted_redis(**{command: answer}) as (url, script), UsagePublisher(url, linger=0) as publisher:
        publisher.track(USERS[0], AGENT)
        eventually(lambda: publisher.stats().holding or publisher.stats().sent)
        script.update(ANSWERS)
        assert publisher.flush()
        assert publisher.stats().holding == ""


def test_broken_shard_leaves_others_alone(redis_url: str, redis_client: redis.Redis) -> None:
    redis_client.set("usage:events:{1}", "x")
    with UsagePublisher(redis_url, linger=0, pack_events=10) as publisher:
        for _ in range(100):
            for user in USERS:
                assert publisher.track(user, AGENT)
        eventually(lambda: publisher.stats().sent == 100)
        assert "shard 1: " in eventually(lambda: publisher.stats().holding)
        assert "WRONGTYPE" in publisher.stats().holding
        assert publisher.stats().buffered == 100
        assert not publisher.flush(0)
        publisher.track(USERS[0], AGENT)
        eventually(lambda: publisher.stats().sent == 101)
        redis_client.delete("usage:events:{1}")
        assert publisher.flush(30)
        assert publisher.stats().holding == ""
    assert events_in(redis_client) == 201
    keys = [fields[b"id"] for fields in entries(redis_client)]
    assert len(keys) == len(set(keys))


def test_broken_shard_fills_only_its_share_of_buffer(redis_url: str, redis_client: redis.Redis) -> None:
    redis_client.set("usage:events:{1}", "x")
    with UsagePublisher(redis_url, linger=0, buffer_bytes=20_000) as publisher:
        publisher.track(USERS[1], AGENT)
        eventually(lambda: publisher.stats().holding)
        accepted = [publisher.track(USERS[1], AGENT) for _ in range(200)]
        assert None in accepted
        assert 20 < publisher.stats().buffered < 70  # of 200 bytes, and their packs
        for number in range(1, 100):
            assert publisher.track(USERS[0], AGENT)
            if number % 20 == 0:
                eventually(partial(sent, publisher, number))
        redis_client.delete("usage:events:{1}")
        assert publisher.flush(30)
        assert all(publisher.track(USERS[1], AGENT) for _ in range(60))


def test_forgotten_publishers_are_collected_once_their_events_are_sent(
    redis_url: str, redis_client: redis.Redis
) -> None:
    gc.collect()
    eventually(lambda: not sending_threads())
    publishers = []
    for _ in range(200):
        publisher = UsagePublisher(redis_url, linger=0.05)
        publisher.track(USERS[0], AGENT)
        publishers.append(weakref.ref(publisher))
    assert len(sending_threads()) == 1
    del publisher
    gc.collect()
    assert not any(reference() for reference in publishers)
    eventually(lambda: events_in(redis_client) == 200)
    eventually(lambda: not sending_threads())


def test_publishers_of_one_url_are_closed_one_by_one(redis_url: str, redis_client: redis.Redis) -> None:
    with UsagePublisher(redis_url) as kept:
        with UsagePublisher(redis_url) as closed:
            for publisher in (kept, closed, kept):
                publisher.track(USERS[0], AGENT)
        assert (closed.stats().accepted, closed.stats().sent) == (1, 1)
        assert closed.track(USERS[0], AGENT) is None
        assert kept.track(USERS[0], AGENT)
        assert kept.flush()
        assert (kept.stats().accepted, kept.stats().sent, kept.stats().dropped) == (3, 3, 0)
        assert closed.stats().dropped == 1
    assert events_in(redis_client) == 4


def test_close_drops_only_its_own_events() -> None:
    url = refusing_url()
    kept, closed = UsagePublisher(url), UsagePublisher(url)
    for publisher in (kept, closed, kept):
        publisher.track(USERS[0], AGENT)
    closed.close(0)
    assert (closed.stats().buffered, closed.stats().dropped) == (0, 1)
    assert (kept.stats().buffered, kept.stats().dropped) == (2, 0)
    kept.close(0)
    assert (kept.stats().buffered, kept.stats().dropped) == (0, 2)


FOREIGN = {
    "DATABASE_URL": "postgresql+asyncpg://me@host/app",
    "USAGE_TIMEZONE": "Mars",
    "USAGE_BATCH_EVENTS": "x",
    "USAGE_RETENTION_DAYS": "2",
    "USAGE_LOG_LEVEL": "loud",
}


def test_other_settings_and_env_file_are_not_read(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("USAGE_STREAM_SHARDS=none\nREDIS_URL=http://elsewhere\n")
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    with UsagePublisher(redis_url) as publisher:
        assert publisher.track(USERS[0], AGENT)
    # Given, the URL of the environment does not matter either.
    monkeypatch.setenv("REDIS_URL", "sentinel://elsewhere")
    UsagePublisher(redis_url).close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://:s3cretword@host"),
        ("USAGE_STREAM_SHARDS", "s3cretword"),
        ("USAGE_STREAM_SHARDS", ""),
        ("USAGE_ACCEPT_DAYS", "0"),
    ],
)
def test_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}: ") as refused:
        UsagePublisher()
    assert "\n" not in str(refused.value)
    assert "s3cretword" not in str(refused.value)


def test_clock_that_differs_from_that_of_redis_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with scripted_redis() as (url, _), UsagePublisher(url, linger=0) as publisher:
        for _ in range(3):
            publisher.track(USERS[0], AGENT)
            assert publisher.flush()
            assert isinstance(publisher._sender, Sender)
            publisher._sender._packs._watch._checked.clear()  # as if a second had passed
    assert [record.getMessage() for record in caplog.records if "ahead of that of Redis" in record.getMessage()]
    assert caplog.text.count("ahead of that of Redis") == 1


@pytest.mark.parametrize("hours", [-1, 1])
def test_jump_of_wall_clock_refuses_no_good_event(redis_url: str, hours: int) -> None:
    with UsagePublisher(redis_url) as publisher:
        # As if the clock had been set forward or back since the window was made.
        jump = timedelta(days=40 * hours)
        window = publisher._window
        window._make()
        window._window = window._window.around(datetime.now(UTC) - jump, window._length)
        window._offset -= jump.total_seconds()
        assert publisher.track(USERS[0], AGENT, occurred_at=datetime.now(UTC))


def test_raising_log_handler_does_not_reach_the_request(redis_url: str) -> None:
    class Raising(logging.Filter):
        def filter(self, _: Any) -> bool:
            raise RuntimeError("filter")

    logger, raising = logging.getLogger("usage_worker.publisher"), Raising()
    logger.addFilter(raising)
    try:
        with UsagePublisher(redis_url) as publisher:
            assert publisher.track("not a uuid", AGENT) is None
    finally:
        logger.removeFilter(raising)
