"""A publisher that is used in the midst of a call to itself, as a signal handler or the garbage collector does."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

import usage_worker.publisher
from tests.helpers import eventually
from tests.integration.test_publisher import entries
from usage_worker.publisher import UsagePublisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    import redis

USER, AGENT = uuid4(), uuid4()
PUBLISHER = str(Path(usage_worker.publisher.__file__).parent)


class Interruption:
    """Runs `handler` before one line of the publisher's code, as a signal may."""

    def __init__(self, line: int, handler: Callable[[], object]) -> None:
        self.lines_left, self._handler = line, handler

    def __call__(self, frame: FrameType, event: str, _: object) -> Interruption:
        if event == "line" and frame.f_code.co_filename.startswith(PUBLISHER):
            self.lines_left -= 1
            if self.lines_left == 0:
                self._handler()
        return self

    @contextmanager
    def armed(self) -> Iterator[None]:
        earlier = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(earlier)


def interrupt_each_line(call: Callable[[], object], handler: Callable[[], object]) -> int:
    """Call once for each line that the call runs, with the handler before that line; return the number of lines."""
    line = 0
    while True:
        line += 1
        interruption = Interruption(line, handler)
        with interruption.armed():
            call()
        if interruption.lines_left > 0:
            return line


def events_of(client: redis.Redis) -> list[str]:
    """Return the ids of all events, whose number each entry must say."""
    found: list[str] = []
    for fields in entries(client):
        columns: dict[str, Any] = json.loads(fields[b"events"])
        assert {len(values) for values in columns.values()} == {int(fields[b"n"])}
        found += (str(UUID(identity)) for identity in columns["event_id"])
    return found


def test_events_tracked_within_track_are_sent_once(redis_url: str, redis_client: redis.Redis) -> None:
    with UsagePublisher(redis_url, pack_events=3) as usage, UsagePublisher(redis_url, pack_events=2) as other:
        tracked: list[str | None] = []

        def track(publisher: UsagePublisher) -> None:
            tracked.append(publisher.track(USER, AGENT))

        def track_three() -> None:
            for _ in range(3):
                track(usage)

        assert interrupt_each_line(track_three, lambda: track(usage)) > 40
        interrupt_each_line(track_three, lambda: track(other))
        assert None not in tracked
        assert usage.flush()
        assert other.flush()
        stats = usage.stats(), other.stats()
    assert sum(it.accepted for it in stats) == sum(it.sent for it in stats) == len(tracked)
    assert [(it.buffered, it.dropped) for it in stats] == [(0, 0)] * 2
    assert sorted(events_of(redis_client)) == sorted(map(str, tracked))
    assert usage._sender._buffer.bytes == other._sender._buffer.bytes == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("step", ["_announce", "_on_event"])
def test_events_after_an_exception_in_track_are_sent(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A signal handler raises it, as for a time limit, before the thread knows of the event."""
    monkeypatch.setattr("usage_worker.publisher.sender.RECHECK_SECONDS", 0.5)
    once = pytest.MonkeyPatch()

    def interrupted(*_: object) -> None:
        once.undo()
        raise TimeoutError

    with UsagePublisher(redis_url, linger=0.1) as usage:
        assert usage.track(USER, AGENT)
        assert usage.flush()
        once.setattr(usage._sender, step, interrupted)
        with pytest.raises(TimeoutError):
            usage.track(USER, AGENT)
        assert usage.track(USER, AGENT)
        eventually(lambda: len(events_of(redis_client)) == 3, 30)


@pytest.mark.parametrize("call", ["flush", "stats", "make_due"])
def test_events_tracked_within_other_calls_are_sent_once(call: str, redis_url: str, redis_client: redis.Redis) -> None:
    with UsagePublisher(redis_url, linger=0) as usage:
        tracked: list[str | None] = []

        def track() -> None:
            tracked.append(usage.track(USER, AGENT))

        def run() -> None:
            track()
            if call == "make_due":
                usage._sender.make_due()  # type: ignore[union-attr]
            else:
                getattr(usage, call)()

        interrupt_each_line(run, track)
        assert usage.flush()
        assert (usage.stats().accepted, usage.stats().sent) == (len(tracked), len(tracked))
    assert sorted(events_of(redis_client)) == sorted(map(str, tracked))


def test_flush_and_stats_within_track_do_not_wait_for_it(redis_url: str, redis_client: redis.Redis) -> None:
    with UsagePublisher(redis_url, pack_events=2) as usage:
        tracked: list[str | None] = []

        def track_two() -> None:
            tracked.extend(usage.track(USER, AGENT) for _ in range(2))
            before = len(tracked)
            # The handler may track its event while the figures are taken.
            assert before <= usage.stats().accepted <= len(tracked)

        def handler() -> None:
            tracked.append(usage.track(USER, AGENT))
            flushed, stats = usage.flush(3600), usage.stats()
            assert stats.accepted == stats.sent + stats.buffered
            assert not flushed or stats.buffered == 0

        interrupt_each_line(track_two, handler)
        assert usage.flush()
        assert (usage.stats().accepted, usage.stats().sent) == (len(tracked), len(tracked))
    assert sorted(events_of(redis_client)) == sorted(map(str, tracked))


def test_publisher_closed_within_track_sends_what_it_accepted(redis_url: str, redis_client: redis.Redis) -> None:
    tracked: list[str] = []
    publishers: list[UsagePublisher] = []

    def track() -> None:
        publishers.append(UsagePublisher(redis_url, linger=3600, pack_events=2))
        tracked.extend(identity for _ in range(2) if (identity := publishers[-1].track(USER, AGENT)))

    def close() -> None:
        if publishers:
            tracked.extend(filter(None, [publishers[-1].track(USER, AGENT)]))
            publishers[-1].close(3600)

    interrupt_each_line(track, close)
    for publisher in publishers:
        publisher.close()
        stats = publisher.stats()
        assert (stats.accepted, stats.buffered) == (stats.sent, 0)
    assert sorted(events_of(redis_client)) == sorted(tracked)
