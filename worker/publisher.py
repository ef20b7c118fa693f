"""The application's side: `track()` is an append to a bounded buffer; a background thread sends what lies there.

The caller's request never waits and never sees an exception of ours. What cannot be sent yet waits in the buffer;
what the buffer cannot hold is dropped, counted and logged. A pack that may have arrived is sent again under the same
key, and the database counts it once.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from uuid_utils.compat import uuid7

from worker.errors import EventRefusedError, StreamUnavailableError
from worker.events import Window
from worker.settings import load_settings
from worker.stream import PACK_EVENTS, EventStream, Pack
from worker.wire import complete, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal
    from uuid import UUID

    from worker.wire import Prepared

T = TypeVar("T")

# The standard library's logger: the application decides where its libraries' logs go.
log = logging.getLogger("usage_worker.publisher")

# Celery shares Redis with the stream and cannot even acknowledge on a full one, so we stop well before.
HOLD_ABOVE = 0.8
PACKS_AT_ONCE = 16
LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Numbers of events. accepted = sent + buffered + dropped after acceptance; refused ones were never accepted."""

    accepted: int
    sent: int
    buffered: int
    dropped: int
    refused: int
    holding: str
    """Why nothing is being sent just now, or an empty string."""


class UsagePublisher:
    """Publishes usage events from an application; safe to share between threads, and restarts itself after a fork.

    Example:
        >>> with UsagePublisher("redis://localhost:6379/0") as usage:
        ...     usage.track(user_id, agent_id, input_tokens=812, output_tokens=160, cost_usd="0.0031")

    Args:
        redis_url: where the stream is; default `REDIS_URL`.
        buffer_bytes: what may wait in memory; events beyond it are dropped and counted.
        linger: seconds that a lone event waits for company.
        pack_events: events in one stream entry, at most.
    """

    _thread: threading.Thread | None
    _buffers: list[list[bytes]]
    _buffered: int
    _accepted: int
    _sent: int
    _lost: int
    _dropped: int
    _refused: int
    _bytes: int
    _holding: str
    _window_made: float

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        buffer_bytes: int = 64 * 2**20,
        linger: float = 0.1,
        pack_events: int = PACK_EVENTS,
    ) -> None:
        settings = load_settings()
        self._redis_url = redis_url or settings.redis_url
        self._shards = settings.stream_shards
        self._accept_window = settings.accept_window
        self._buffer_bytes = buffer_bytes
        self._linger = linger
        self._pack_events = pack_events
        self._start_over()
        atexit.register(_call, weakref.WeakMethod(self.close))
        os.register_at_fork(after_in_child=partial(_call, weakref.WeakMethod(self._start_over)))

    def track(
        self,
        user_id: UUID | str,
        agent_id: UUID | str,
        *,
        event_id: UUID | str | None = None,
        occurred_at: datetime | None = None,
        messages: int = 1,
        input_tokens: int = 0,
        output_tokens: int = 0,
        tokens: int | None = None,
        cost_usd: Decimal | str | int | None = None,
        response_time_ms: int | None = None,
        success: bool = True,
        conversation_id: UUID | str | None = None,
        model: str | None = None,
    ) -> str | None:
        """Count one use of an agent; units and bounds are those of `worker.events.Event`.

        Returns the event's identity (a UUID as text), or None when it was refused (a field is wrong; the log says
        which) or dropped (the buffer is full). Never raises for what is in the fields or for the state of Redis.
        """
        said = (event_id, occurred_at, "usage", user_id, agent_id, messages, input_tokens, output_tokens, tokens)
        return self._publish(complete, (*said, cost_usd, response_time_ms, success, conversation_id, model, None))

    def rate(
        self,
        user_id: UUID | str,
        agent_id: UUID | str,
        rating: Decimal | str | float,
        *,
        event_id: UUID | str | None = None,
        occurred_at: datetime | None = None,
    ) -> str | None:
        """Record a user's rating of an agent, 0 to 5; the newest one counts. Returns like `track`."""
        fields = locals()
        del fields["self"]
        return self.add(fields | {"type": "rating", "rating": str(rating)})

    def add(self, fields: dict[str, Any]) -> str | None:
        """Like `track`, from a dictionary of the event's fields."""
        return self._publish(prepare, fields)

    def send(self, event: Prepared) -> bool:
        """Like `track`, for an event that `worker.wire.prepare` has completed; False when it was dropped."""
        if self._enqueue(self._stream.shard_of(event.user_id), event.body):
            return True
        self._complain(logging.ERROR, "event dropped: the buffer is full (%s)", self._holding or "sending lags")
        return False

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything accepted so far is in Redis; False when that takes longer than `timeout` seconds."""
        with self._changed:
            target = self._accepted
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._sent + self._lost >= target, timeout) and not self._lost

    def stats(self) -> PublisherStats:
        """How many events were accepted, sent, dropped and refused in this process."""
        with self._changed:
            buffered = self._accepted - self._sent - self._lost
            return PublisherStats(
                self._accepted, self._sent, buffered, self._dropped + self._lost, self._refused, self._holding
            )

    def close(self, timeout: float = 5.0) -> None:
        """Send what is buffered, for at most `timeout` seconds, and stop; what is left then is dropped and logged."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
            self._give_up.set()
        with self._changed:
            left = self._accepted - self._sent - self._lost
            self._lost += left
            self._thread = None
            self._changed.notify_all()
        if left:
            log.error("%d events dropped at close: %s", left, self._holding or "not sent in time")
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_over(self) -> None:
        """An empty publisher; also what a forked child begins with, since its parent sends what the parent has."""
        self._stream = EventStream(self._redis_url, self._shards)
        self._changed = threading.Condition()
        self._give_up = threading.Event()
        self._thread = None
        self._buffers = [[] for _ in range(self._shards)]
        self._buffered = 0
        self._bytes = self._accepted = self._sent = self._dropped = self._lost = self._refused = 0
        self._closing = self._hurry = False
        self._holding = ""
        self._complained = self._memory_checked = self._window_made = 0.0
        self._window = Window.around(datetime.now(UTC), timedelta())

    def _publish(self, form: Callable[[T, Window], Prepared], said: T) -> str | None:
        now = time.time()
        if now - self._window_made > 1:
            self._window = Window.around(datetime.now(UTC), self._accept_window)
            self._window_made = now
        try:
            event = form(said, self._window)
        except EventRefusedError as error:
            with self._changed:
                self._refused += 1
            self._complain(logging.WARNING, "%s", error)
            return None
        return event.event_id if self.send(event) else None

    def _enqueue(self, shard: int, body: bytes) -> bool:
        with self._changed:
            if self._closing or self._bytes + len(body) > self._buffer_bytes:
                self._dropped += 1
                return False
            self._buffers[shard].append(body)
            self._buffered += 1
            self._bytes += len(body)
            self._accepted += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="usage-publisher", daemon=True)
                self._thread.start()
            elif self._buffered in (1, self._pack_events):
                self._changed.notify_all()
            return True

    def _run(self) -> None:
        while batch := self._next_batch():
            for packs in _chunks(list(self._packs(batch)), PACKS_AT_ONCE):
                if not self._send(packs):
                    return

    def _next_batch(self) -> list[list[bytes]]:
        """All that is buffered, by shard, once there is something and company had its chance; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._buffered or self._closing)
            self._changed.wait_for(
                lambda: self._buffered >= self._pack_events or self._closing or self._hurry, self._linger
            )
            batch = self._buffers if self._buffered else []
            self._buffers = [[] for _ in range(self._shards)]
            self._buffered = 0
            self._hurry = False
            return batch

    def _packs(self, batch: list[list[bytes]]) -> Iterator[tuple[int, Pack]]:
        for shard, bodies in enumerate(batch):
            for events in _chunks(bodies, self._pack_events):
                yield shard, Pack(uuid7(), events)

    def _send(self, packs: list[tuple[int, Pack]]) -> bool:
        """Send until Redis has taken the packs; False when the publisher was closed meanwhile."""
        pause = 0.05
        while True:
            try:
                self._hold_back()
                self._stream.append(packs)
            except StreamUnavailableError as error:
                self._holding = str(error)
                self._complain(logging.WARNING, "holding events back: %s", error)
                if self._give_up.wait(pause):
                    return False
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                break
        with self._changed:
            self._holding = ""
            self._sent += sum(len(pack.events) for _, pack in packs)
            self._bytes -= sum(len(event) for _, pack in packs for event in pack.events)
            self._changed.notify_all()
        return True

    def _hold_back(self) -> None:
        """Look at Redis' memory once a second.

        Raises:
            StreamUnavailableError: it is nearly full, and the workers need the rest to drain it.
        """
        if not self._holding and time.monotonic() - self._memory_checked < 1:
            return
        used = self._stream.memory_used()
        if used > HOLD_ABOVE:
            raise StreamUnavailableError(f"its memory is {used:.0%} full, and we stop at {HOLD_ABOVE:.0%}")
        self._memory_checked = time.monotonic()

    def _complain(self, level: int, message: str, *values: object) -> None:
        """Log, but at most once a second: a request path may fail thousands of times a second."""
        if time.monotonic() - self._complained >= 1:
            self._complained = time.monotonic()
            log.log(level, message, *values)


def _chunks(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _call(method: weakref.WeakMethod[Any]) -> None:
    if (bound := method()) is not None:
        bound()
