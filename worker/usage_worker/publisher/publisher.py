"""The object that an application holds: it checks events and buffers them, and never raises in the request path."""

from __future__ import annotations

import time
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from usage_worker.errors import EventRefusedError
from usage_worker.events.event import Window
from usage_worker.events.wire import exact_row, prepare, prepare_rating, prepare_values
from usage_worker.publisher.account import Account
from usage_worker.publisher.sender_key import Limits, SenderKey
from usage_worker.publisher.senders import senders
from usage_worker.queue.stream import PACK_EVENTS
from usage_worker.settings import load_publisher_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from uuid import UUID

    from usage_worker.events.wire import Prepared
    from usage_worker.publisher.account import PublisherStats
    from usage_worker.settings import PublisherSettings

T = TypeVar("T")


class UsagePublisher:
    """Publisher of usage events in an application; safe to share between threads, and started anew after a fork.

    Example:
        >>> with UsagePublisher("redis://localhost:6379/0") as usage:
        ...     usage.track(user_id, agent_id, input_tokens=812, output_tokens=160, cost_usd="0.0031")

    Publishers of one URL, with the same limits, share a buffer and the thread that sends it; closing one leaves the
    others open. What a publisher has accepted is sent even where it is neither closed nor kept.

    Args:
        redis_url: the Redis with the streams; default `REDIS_URL`.
        buffer_bytes: bytes of events that may wait in memory; further events are dropped and counted.
        linger: seconds that an event waits for others before it is sent.
        pack_events: greatest number of events in one stream entry.
        settings: default: what the environment says.
        backfill: workers accept the events that are sent with `send` as long as the ledger keeps their day.

    Raises:
        SettingsError: `REDIS_URL`, `USAGE_STREAM_SHARDS` or `USAGE_ACCEPT_DAYS` is wrong; no other setting is read.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        buffer_bytes: int = 64 * 2**20,
        linger: float = 0.1,
        pack_events: int = PACK_EVENTS,
        settings: PublisherSettings | None = None,
        backfill: bool = False,
    ) -> None:
        settings = settings or load_publisher_settings(redis_url)
        self._accept_window = settings.accept_window
        self._make_window()
        self._account = Account()
        limits = Limits(buffer_bytes, linger, pack_events)
        key = SenderKey(redis_url or settings.redis_url, settings.stream_shards, limits, backfill)
        self._sender = senders().join(key, self._account)
        self._forget = weakref.finalize(self, self._sender.leave, self._account)
        self._forget.atexit = False  # the senders see to the end of the process

    def track(
        self,
        user_id: UUID | str,
        agent_id: UUID | str,
        *,
        event_id: UUID | str | None = None,
        occurred_at: datetime | float | None = None,
        messages: int = 1,
        input_tokens: int = 0,
        output_tokens: int = 0,
        tokens: int | None = None,
        cached_input_tokens: int | None = None,
        cache_write_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        cost_usd: Decimal | str | float | None = None,
        response_time_ms: float | None = None,
        success: bool = True,
        conversation_id: UUID | str | None = None,
        model: str | None = None,
        provider: str | None = None,
    ) -> str | None:
        """Count one use of an agent; units and bounds are those of `usage_worker.events.event.Event`.

        With an `event_id`, and always the same time or never one, an event that is sent again counts once. Returns the
        event's identity (a UUID as text), or None when it was refused (a field is wrong; the log names it)
        or dropped (the buffer is full). Never raises because of the fields or of the state of Redis.
        """
        values = (
            event_id, occurred_at, "usage", user_id, agent_id, messages, input_tokens, output_tokens, tokens,
            cached_input_tokens, cache_write_tokens, reasoning_tokens,
            cost_usd, response_time_ms, success, conversation_id, model, provider, None,
        )  # fmt: skip
        try:
            row = exact_row(values)
        except AttributeError:  # a UUID that was never initialised
            row = None
        if row is None:
            return self._publish(prepare_values, values)
        identity: str = row[0]
        return identity if self._sender.put(self._account, row) else None

    def rate(
        self,
        user_id: UUID | str,
        agent_id: UUID | str,
        rating: Decimal | str | float,
        *,
        event_id: UUID | str | None = None,
        occurred_at: datetime | float | None = None,
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
        return self._sender.put(self._account, event.row, time_is_ours=event.time_is_ours)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every accepted event is in Redis; return False when that takes more than `timeout` seconds."""
        return self._sender.flush(self._account, timeout)

    def stats(self) -> PublisherStats:
        """Return how many events this publisher accepted, sent, dropped and refused in this process."""
        return self._sender.stats(self._account)

    def close(self, timeout: float = 5.0) -> None:
        """Send the buffered events for at most `timeout` seconds, and stop; drop and log the rest."""
        self._forget.detach()
        self._sender.close(self._account, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publish(self, form: Callable[[T, Window], Prepared], values: T) -> str | None:
        if time.monotonic() - self._window_made > 1:
            self._make_window()
        try:
            event = form(values, self._window)
        except EventRefusedError as error:
            if abs(_clock_offset() - self._window_offset) > 1:
                # The wall clock has jumped since the window was made.
                self._make_window()
                return self._publish(form, values)
            self._sender.refuse(self._account, error)
            return None
        return event.event_id if self.send(event) else None

    def _make_window(self) -> None:
        self._window = Window.around(datetime.now(UTC), self._accept_window)
        self._window_made, self._window_offset = time.monotonic(), _clock_offset()


def _clock_offset() -> float:
    """Return what the wall clock shows when the monotonic clock shows 0, which changes only when it is set."""
    return time.time() - time.monotonic()
