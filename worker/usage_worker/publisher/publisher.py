"""The object that an application holds: it checks events and buffers them, and never raises in the request path."""

from __future__ import annotations

import atexit
import os
import time
import weakref
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from usage_worker.errors import EventRefusedError
from usage_worker.events.event import Window
from usage_worker.events.wire import complete, prepare, prepare_rating
from usage_worker.publisher.rate_limited_log import RateLimitedLog, log
from usage_worker.publisher.sender import Limits, Sender
from usage_worker.queue.stream import PACK_EVENTS, EventStream
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from uuid import UUID

    from usage_worker.events.wire import Prepared
    from usage_worker.publisher.sender import PublisherStats
    from usage_worker.queue.server import Concern

T = TypeVar("T")


class UsagePublisher:
    """Publisher of usage events in an application; safe to share between threads, and started anew after a fork.

    Example:
        >>> with UsagePublisher("redis://localhost:6379/0") as usage:
        ...     usage.track(user_id, agent_id, input_tokens=812, output_tokens=160, cost_usd="0.0031")

    Args:
        redis_url: the Redis with the streams; default `REDIS_URL`.
        buffer_bytes: bytes of events that may wait in memory; further events are dropped and counted.
        linger: seconds that an event waits for others before it is sent.
        pack_events: greatest number of events in one stream entry.
    """

    _stream: EventStream
    _sender: Sender
    _window: Window
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
        self._limits = Limits(buffer_bytes, linger, pack_events)
        self._start_over()
        # Accepted events are sent even where the application neither closes nor references the publisher.
        atexit.register(self.close)
        # Weak, since it cannot be unregistered.
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
        """Count one use of an agent; units and bounds are those of `usage_worker.events.event.Event`.

        Returns the event's identity (a UUID as text), or None when it was refused (a field is wrong; the log names it)
        or dropped (the buffer is full). Never raises because of the fields or of the state of Redis.
        """
        values = (event_id, occurred_at, "usage", user_id, agent_id, messages, input_tokens, output_tokens, tokens)
        return self._publish(complete, (*values, cost_usd, response_time_ms, success, conversation_id, model, None))

    def rate(
        self,
        user_id: UUID | str,
        agent_id: UUID | str,
        rating: Decimal | str | float,
        *,
        event_id: UUID | str | None = None,
        occurred_at: datetime | None = None,
    ) -> str | None:
        """Record a user's rating of an agent, 0 to 5; the newest rating counts. Returns the same as `track`."""
        fields = locals()
        del fields["self"]
        return self._publish(prepare_rating, fields)

    def add(self, fields: dict[str, Any]) -> str | None:
        """Publish an event from a dictionary of its fields. Returns the same as `track`."""
        return self._publish(prepare, fields)

    def send(self, event: Prepared) -> bool:
        """Send an event that `usage_worker.events.wire.prepare` has completed; return False when it was dropped."""
        return self._sender.put(self._stream.shard_of(event.user_id), event.body)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every accepted event is in Redis; return False when that takes more than `timeout` seconds."""
        return self._sender.flush(timeout)

    def stats(self) -> PublisherStats:
        """Return how many events this process accepted, sent, dropped and refused."""
        return self._sender.stats()

    def close(self, timeout: float = 5.0) -> None:
        """Send the buffered events for at most `timeout` seconds, and stop; drop and log the rest."""
        self._sender.close(timeout)
        self._stream.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_over(self) -> None:
        """Begin with an empty buffer; a forked child does so too, since its parent sends the events that it has."""
        self._stream = EventStream(self._redis_url, self._shards, _warn)
        self._sender = Sender(self._stream, self._limits, RateLimitedLog())
        self._window_made = 0.0

    def _publish(self, form: Callable[[T, Window], Prepared], values: T) -> str | None:
        now = time.time()
        if now - self._window_made > 1:
            self._window = Window.around(datetime.now(UTC), self._accept_window)
            self._window_made = now
        try:
            event = form(values, self._window)
        except EventRefusedError as error:
            self._sender.refuse(error)
            return None
        return event.event_id if self.send(event) else None


def _warn(concern: Concern) -> None:
    """Log what loses or refuses events; the rest is for the workers' operator."""
    if concern.state == "fail":
        log.warning("%s", concern)


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    if (bound := method()) is not None:
        bound()
