"""The sender's buffer and its thread, with a Redis that refuses, hangs up or never answers."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.helpers import eventually
from tests.unit.sockets import refusing_url, silent_server, url_of
from usage_worker.errors import EventRefusedError
from usage_worker.events.wire import Prepared
from usage_worker.publisher.account import Account, PublisherStats
from usage_worker.publisher.sender_key import Limits, SenderKey
from usage_worker.publisher.senders import Senders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.publisher.sender import Sender

# Longer than a test may take, so that this time never causes an event to be sent.
NEVER = 3600.0


class Opened:
    """A sender, and the account of one publisher."""

    def __init__(self, sender: Sender, account: Account) -> None:
        self.sender, self.account = sender, account

    def put(self, shard: int, body: bytes) -> bool:
        return self.sender.put(self.account, Prepared("", UUID(int=shard), body))

    def flush(self, timeout: float) -> bool:
        return self.sender.flush(self.account, timeout)

    def stats(self) -> PublisherStats:
        return self.sender.stats(self.account)

    def close(self, timeout: float) -> None:
        self.sender.close(self.account, timeout)


@contextmanager
def opened(url: str, *, buffer_bytes: int = 1_000, linger: float = 0.0, pack_events: int = 500) -> Iterator[Opened]:
    account = Account()
    sender = Senders().join(SenderKey(url, 2, Limits(buffer_bytes, linger, pack_events)), account)
    yield Opened(sender, account)
    sender.close(account, timeout=0)


def test_full_buffer_drops_and_counts() -> None:
    with opened(refusing_url(), buffer_bytes=10) as sender:
        assert [sender.put(0, b"1234"), sender.put(1, b"123456"), sender.put(0, b"1")] == [True, True, False]
        stats = sender.stats()
        assert (stats.accepted, stats.sent, stats.buffered, stats.dropped) == (2, 0, 2, 1)


def test_refused_event_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with opened(refusing_url()) as sender, caplog.at_level(logging.WARNING):
        sender.sender.refuse(sender.account, EventRefusedError("messages: too many"))
        assert sender.stats() == PublisherStats(0, 0, 0, 0, 1, "")
    assert "messages: too many" in caplog.text


def test_flush_of_nothing_succeeds_and_starts_no_thread() -> None:
    before = set(threading.enumerate())
    with opened(refusing_url()) as sender:
        assert sender.flush(0)
        assert set(threading.enumerate()) <= before


def test_unreachable_redis_is_named_and_flush_fails() -> None:
    with opened(refusing_url()) as sender:
        assert sender.put(0, b"1")
        assert not sender.flush(0.1)
        eventually(lambda: sender.stats().holding)
        assert "Redis is not available" in sender.stats().holding
        assert sender.stats().buffered == 1


def test_close_drops_unsent_events_and_refuses_new_ones(caplog: pytest.LogCaptureFixture) -> None:
    with opened(refusing_url()) as sender, caplog.at_level(logging.ERROR):
        sender.put(0, b"1")
        sender.put(0, b"2")
        sender.close(timeout=0.1)
        assert not sender.put(0, b"3")
        assert not sender.flush(0)
        stats = sender.stats()
        assert (stats.accepted, stats.sent, stats.buffered, stats.dropped) == (2, 0, 0, 3)
    assert "2 events dropped at close" in caplog.text


def test_close_wakes_thread_waiting_to_retry() -> None:
    before = set(threading.enumerate())
    with opened(refusing_url()) as sender:
        sender.put(0, b"1")
        eventually(lambda: sender.stats().holding)
        (thread,) = set(threading.enumerate()) - before
        sender.close(timeout=0)
        eventually(lambda: not thread.is_alive())


@pytest.mark.parametrize("cause", ["a full pack", "flush", "close"])
def test_lingering_ends_early(cause: str) -> None:
    with silent_server() as server, opened(url_of(server), linger=NEVER, pack_events=3) as sender:
        for body in (b"1", b"2"):
            sender.put(1, body)
        # The thread must wait already; otherwise it would see the third event without being woken.
        eventually(lambda: sender.sender._changed._waiters)  # type: ignore[attr-defined]
        if cause == "a full pack":
            sender.put(1, b"3")
        elif cause == "flush":
            assert not sender.flush(0)
        else:
            sender.close(timeout=1)
        connection, _ = server.accept()
        connection.close()


def test_lone_event_is_sent_after_lingering() -> None:
    with silent_server() as server, opened(url_of(server), linger=0.05) as sender:
        sender.put(0, b"1")
        connection, _ = server.accept()
        connection.close()


def test_lost_connection_is_retried() -> None:
    with silent_server() as server, opened(url_of(server)) as sender:
        sender.put(0, b"1")
        for _ in range(3):
            connection, _ = server.accept()
            connection.close()
        stats = sender.stats()
        assert (stats.sent, stats.buffered, stats.dropped) == (0, 1, 0)


def test_events_are_packed_by_shard_and_limit() -> None:
    with opened(refusing_url(), linger=NEVER, pack_events=2) as opening:
        for shard, body in ((0, b"1"), (0, b"2"), (1, b"4"), (0, b"3")):
            opening.put(shard, body)
        buffer = opening.sender._buffer
        packs = [(lane.shard, sealed.pack) for lane, sealed in buffer.due(ripe=True)]
        assert [(shard, list(pack.events)) for shard, pack in packs] == [(0, [b"1", b"2"]), (0, [b"3"]), (1, [b"4"])]
        assert len({pack.key for _, pack in packs}) == 3


def test_pack_is_sealed_once() -> None:
    """A pack that may have arrived is sent again with the same events under the same key."""
    with opened(refusing_url()) as sender:
        sender.put(0, b"1")
        eventually(lambda: sender.stats().holding)
        (first,) = (sealed.pack for _, sealed in sender.sender._buffer.due(ripe=True))
        sender.put(0, b"2")
        assert next(iter(sender.sender._buffer.lanes[0, False].sealed)).pack == first
