"""The sender's buffer and its thread, with a Redis that refuses, hangs up or never answers."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import threading
import tracemalloc
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.helpers import eventually
from tests.unit.sockets import refusing_url, silent_server, url_of
from usage_worker.errors import EventRefusedError
from usage_worker.events.columns import MAX_PACK_EVENTS, NAMES
from usage_worker.events.event import Window
from usage_worker.events.external_ids import ExternalIds
from usage_worker.events.wire import prepare
from usage_worker.publisher.account import Account, PublisherStats
from usage_worker.publisher.hooks import Hooks
from usage_worker.publisher.sender_key import Limits, SenderKey
from usage_worker.publisher.senders import Senders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.publisher.sender import Sender
    from usage_worker.queue.entry import Pack

# Longer than a test may take, so that this time never causes an event to be sent.
NEVER = 3600.0
WINDOW = Window.around(datetime.now(UTC), timedelta(days=1))


class Opened:
    """A sender, and the account of one publisher."""

    def __init__(self, sender: Sender, account: Account) -> None:
        self.sender, self.account = sender, account

    def put(self, shard: int, model: str) -> bool:
        """Put an event that can be told from others by its model."""
        user = UUID(int=shard)
        return self.sender.put(self.account, prepare({"user_id": user, "agent_id": user, "model": model}, WINDOW).row)

    def put_broken(self, shard: int) -> bool:
        """Put an event whose columns cannot be written."""
        return self.sender.put(self.account, tuple(shard if name == "user_id" else {0} for name in NAMES))

    def flush(self, timeout: float) -> bool:
        portions = self.sender.begin_flush(self.account)
        return self.sender.await_sent(self.account, portions, timeout) and not self.account.lost

    def stats(self) -> PublisherStats:
        return self.sender.stats(self.account)

    def close(self, timeout: float) -> None:
        self.sender.close(self.account, timeout)


@contextmanager
def opened(url: str, *, buffer_bytes: int = 100_000, linger: float = 0.0, pack_events: int = 500) -> Iterator[Opened]:
    account = Account(Hooks(None, None).report)
    sender = Senders().join(SenderKey(url, 2, Limits(buffer_bytes, linger, pack_events)), account)
    yield Opened(sender, account)
    sender.close(account, timeout=0)


def test_full_buffer_drops_and_counts() -> None:
    with opened(refusing_url(), buffer_bytes=4_000, linger=NEVER) as sender:
        put = [sender.put(number % 2, "model") for number in range(30)]
        assert put == sorted(put, reverse=True), "an event was dropped, and a later one found room"
        assert 2 < sum(put) < 10, "two have room as rows, and ten would as columns if packs took nothing besides"
        stats = sender.stats()
        assert (stats.accepted, stats.sent, stats.buffered, stats.dropped) == (sum(put), 0, sum(put), 30 - sum(put))
        assert sender.sender._buffer.bytes <= 4_000


def test_events_of_what_interrupts_the_holder_of_the_lock_are_bounded_and_counted() -> None:
    with opened(refusing_url(), buffer_bytes=4_000, linger=NEVER) as sender:
        with sender.sender._lock:
            put = [sender.put(number % 2, "model") for number in range(30)]
            assert not sender.flush(NEVER)
            postponed = sender.stats()
            assert sender.sender._buffer.bytes == 0
        assert put == sorted(put, reverse=True)
        assert 2 < sum(put) < 10
        assert not sender.flush(0)
        assert sender.sender._buffer.bytes > 0
        for stats in (postponed, sender.stats()):
            assert (stats.accepted, stats.sent, stats.buffered, stats.dropped) == (sum(put), 0, sum(put), 30 - sum(put))
        sender.close(0)
        with sender.sender._lock:
            assert not sender.put(0, "model")
        assert (sender.stats().accepted, sender.stats().dropped) == (sum(put), 31)


EVERY_VALUE = {
    **dict.fromkeys(("input_tokens", "output_tokens", "tokens"), 10**11),
    **dict.fromkeys(("cached_input_tokens", "cache_write_tokens", "reasoning_tokens"), 10**11),
    "messages": 10**6,
    "cost_usd": "0.0123456789",
    "response_time_ms": 10**6,
    "success": False,
}


def fresh_event(number: int, *, every_value: bool) -> dict[str, Any]:
    """Return an event that shares no value with another."""
    ids = {"user_id": uuid4(), "agent_id": uuid4()}
    if not every_value:
        return ids
    changed = {name: value - number for name, value in EVERY_VALUE.items() if type(value) is int}
    texts = {"model": f"model-\u4e00-{number}", "provider": f"\U0001f600-{number}"}
    return {**ids, "conversation_id": uuid4(), **EVERY_VALUE, **changed, **texts}


@pytest.mark.parametrize(("every_value", "text"), [(False, ""), (True, ""), (False, "x"), (False, "\u4e00" * 200)])
@pytest.mark.parametrize("pack_events", [1, 20, 500, MAX_PACK_EVENTS])
def test_buffer_is_no_larger_in_memory_than_counted(pack_events: int, *, every_value: bool, text: str) -> None:
    limit = 2**18
    with opened(refusing_url(), buffer_bytes=limit, linger=NEVER, pack_events=pack_events) as sender:
        # What the first attempt to connect imports, and the thread, are not of the buffer.
        sender.put(0, "the first")
        sender.sender.make_due()
        eventually(lambda: sender.stats().holding)
        tracemalloc.start()
        try:
            for number in itertools.count():
                fields = fresh_event(number, every_value=every_value)
                if text:
                    fields |= dict.fromkeys(("user_id", "agent_id", "conversation_id"), f"{text}{number}")
                event = prepare(fields, WINDOW, ExternalIds(uuid4()) if text else None)  # not those that are known
                is_full = sender.sender._buffer.bytes > 0.9 * limit
                if is_full or not sender.sender.put(sender.account, event.row, event.made):
                    break
            eventually(lambda: not sender.sender._buffer.unwritten(1))
            gc.collect()
            traced, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        counted = sender.sender._buffer.bytes
        assert 0.4 * counted < traced < 1.1 * counted, f"{number} events"


def test_refused_event_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with opened(refusing_url()) as sender, caplog.at_level(logging.WARNING):
        sender.sender.refuse(sender.account, EventRefusedError("messages: too many"))
        assert sender.stats() == PublisherStats(0, 0, 0, 0, 1, 0, "")
    assert "messages: too many" in caplog.text


def test_flush_of_nothing_succeeds_and_starts_no_thread() -> None:
    before = set(threading.enumerate())
    with opened(refusing_url()) as sender:
        assert sender.flush(0)
        assert set(threading.enumerate()) <= before


def test_event_during_the_end_of_the_thread_starts_another_one() -> None:
    """A publisher may join after the thread has found that none is left, and before it has ended."""
    with opened("redis://127.0.0.1:1/0", linger=NEVER) as opening:
        sender = opening.sender
        sender.shut(opening.account)
        sender._accounts.clear()
        sender._thread.running = threading.current_thread()
        assert not sender._due()
        opening.account.open = True
        sender.join(opening.account)
        opening.put(0, "m")
        assert sender._thread.running not in (None, threading.current_thread())


def test_unreachable_redis_is_named_and_flush_fails() -> None:
    with opened(refusing_url()) as sender:
        assert sender.put(0, "1")
        assert not sender.flush(0.1)
        eventually(lambda: sender.stats().holding)
        assert "Redis is not available" in sender.stats().holding
        assert sender.stats().buffered == 1


def test_close_drops_unsent_events_and_refuses_new_ones(caplog: pytest.LogCaptureFixture) -> None:
    with opened(refusing_url()) as sender, caplog.at_level(logging.ERROR):
        sender.put(0, "1")
        sender.put(0, "2")
        sender.close(timeout=0.1)
        assert not sender.put(0, "3")
        assert not sender.flush(0)
        stats = sender.stats()
        assert (stats.accepted, stats.sent, stats.buffered, stats.dropped) == (2, 0, 0, 3)
    assert "2 events dropped at close" in caplog.text


def test_close_wakes_thread_waiting_to_retry() -> None:
    before = set(threading.enumerate())
    with opened(refusing_url()) as sender:
        sender.put(0, "1")
        eventually(lambda: sender.stats().holding)
        (thread,) = set(threading.enumerate()) - before
        sender.close(timeout=0)
        eventually(lambda: not thread.is_alive())


@pytest.mark.parametrize("cause", ["a full pack", "flush", "close"])
def test_lingering_ends_early(cause: str) -> None:
    with silent_server() as server, opened(url_of(server), linger=NEVER, pack_events=3) as sender:
        for model in ("1", "2"):
            sender.put(1, model)
        # The thread must wait already; otherwise it would see the third event without being woken.
        eventually(lambda: sender.sender._changed._waiters)  # type: ignore[attr-defined]
        if cause == "a full pack":
            sender.put(1, "3")
        elif cause == "flush":
            assert not sender.flush(0)
        else:
            sender.close(timeout=1)
        connection, _ = server.accept()
        connection.close()


def test_lone_event_is_sent_after_lingering() -> None:
    with silent_server() as server, opened(url_of(server), linger=0.05) as sender:
        sender.put(0, "1")
        connection, _ = server.accept()
        connection.close()


def test_lost_connection_is_retried() -> None:
    with silent_server() as server, opened(url_of(server)) as sender:
        sender.put(0, "1")
        for _ in range(3):
            connection, _ = server.accept()
            connection.close()
        stats = sender.stats()
        assert (stats.sent, stats.buffered, stats.dropped) == (0, 1, 0)


def models_of(pack: Pack) -> list[str]:
    found: list[str] = json.loads(pack.body)["model"]
    assert pack.events == len(found)
    return found


def sealed_packs(opening: Opened) -> list[tuple[int, Pack]]:
    """Return the packs as the thread would send them next."""
    opening.sender._buffer.seal_due(ripe=True)
    opening.sender._packs.write()
    return [(sealed.lane.shard, pack) for sealed, pack in opening.sender._buffer.due()]


def test_events_are_packed_by_shard_and_limit() -> None:
    with opened(refusing_url(), linger=NEVER, pack_events=2) as opening:
        for shard, model in ((0, "1"), (0, "2"), (1, "4"), (0, "3")):
            opening.put(shard, model)
        packs = sealed_packs(opening)
        assert [(shard, models_of(pack)) for shard, pack in packs] == [(0, ["1", "2"]), (0, ["3"]), (1, ["4"])]
        assert len({pack.key for _, pack in packs}) == 3


def test_pack_is_sealed_once() -> None:
    """A pack that may have arrived is sent again with the same events under the same key."""
    with opened(refusing_url()) as sender:
        sender.put(0, "1")
        eventually(lambda: sender.stats().holding)
        (first,) = sealed_packs(sender)
        sender.put(0, "2")
        assert sealed_packs(sender)[0] == first


def test_columns_are_written_while_redis_does_not_answer() -> None:
    """What waits takes a quarter of the memory then, so that four times as many events have room."""
    with silent_server() as server, opened(url_of(server), buffer_bytes=200_000, pack_events=50) as sender:
        assert sender.put(0, "first")
        connection, _ = server.accept()  # the thread waits for an answer from now on
        with connection:
            put = sum(sender.put(0, "model") for _ in range(800))
            rows_alone = 200_000 // 900
            assert put == 800 > 3 * rows_alone
            assert sender.stats().dropped == 0
            assert sender.sender._buffer.bytes <= 200_000


@contextmanager
def waiting_for_redis(**limits: Any) -> Iterator[Opened]:
    """Open a sender whose thread waits for an answer, so that it writes no columns."""
    with silent_server() as server, opened(url_of(server), **limits) as sender:
        assert sender.put(0, "first")
        connection, _ = server.accept()
        with connection:
            yield sender


def test_full_shard_writes_nothing_of_other_shards() -> None:
    """Their columns make no room for it; each of as many packs was a call within a call, and a RecursionError."""
    with waiting_for_redis(buffer_bytes=2**24, pack_events=1) as sender:
        buffer = sender.sender._buffer
        for _ in range(1_100):
            assert sender.put(0, "model")
        waiting = [sealed for sealed, _ in buffer.unwritten(None)]
        assert len(waiting) == 1_100
        buffer.lanes[1].room = 0
        assert not sender.put(1, "model")
        assert sender.stats().dropped == 1
        assert [sealed for sealed, _ in buffer.unwritten(None)] == waiting


def test_full_shard_writes_its_own_columns() -> None:
    with waiting_for_redis(buffer_bytes=2**24, pack_events=50) as sender:
        buffer = sender.sender._buffer
        for shard in (0, 1):
            for _ in range(120):
                assert sender.put(shard, "model")
        others = [sealed for sealed, _ in buffer.unwritten(None) if sealed.lane.shard == 0]
        buffer.lanes[1].room = buffer.lanes[1].bytes
        put = sum(sender.put(1, "model") for _ in range(1_000))
        assert 200 < put < 1_000, "120 rows take as much as some 400 events in columns"
        assert [sealed for sealed, _ in buffer.unwritten(None)] == others


def test_shard_far_above_its_share_writes_as_many_packs_as_it_takes() -> None:
    with waiting_for_redis(buffer_bytes=2**24, pack_events=1) as sender:
        buffer = sender.sender._buffer
        for _ in range(1_600):
            assert sender.put(0, "model")
        buffer.lanes[0].room = buffer.lanes[0].bytes * 7 // 10
        assert sender.put(0, "model")
        assert 0 < len(buffer.unwritten(None)) < 500


def test_pack_that_cannot_be_written_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with opened(refusing_url(), linger=NEVER, pack_events=1) as sender, caplog.at_level(logging.WARNING):
        sender.put_broken(0)
        sender.put(0, "good")
        sender.put(1, "good")
        eventually(lambda: "TypeError" in caplog.text)
        assert [models_of(pack) for _, pack in sealed_packs(sender)] == [["good"], ["good"]]
        assert sender.stats().buffered == 3
