"""The object that an application holds: it checks events and buffers them, and never raises in the request path."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from usage_worker.errors import EventRefusedError, SettingsError
from usage_worker.events.columns import NAMES, PACK_EVENTS
from usage_worker.events.external_ids import external_ids
from usage_worker.events.wire import exact_row, prepare, prepare_rating, prepare_values
from usage_worker.publisher.accept_window import AcceptWindow
from usage_worker.publisher.account import Account
from usage_worker.publisher.hooks import Hooks
from usage_worker.publisher.measuring import Measuring
from usage_worker.publisher.no_sender import NoSender
from usage_worker.publisher.polling import poll
from usage_worker.publisher.recorders import RECORDERS
from usage_worker.publisher.sender_key import Limits, SenderKey
from usage_worker.settings import load_publisher_settings

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID

    from usage_worker.events.wire import Preparation, Prepared
    from usage_worker.publisher.account import PublisherStats
    from usage_worker.publisher.hooks import BeforeSend, OnError
    from usage_worker.publisher.sender import Sender
    from usage_worker.settings import PublisherSettings

# Seconds for which a check from an event loop may wait for the sender.
CHECK_SECONDS = 0.0001

T = TypeVar("T")


class UsagePublisher(Measuring):
    """Publisher of usage events in an application; safe to share between threads, and started anew after a fork.

    Example:
        >>> with UsagePublisher("redis://localhost:6379/0") as usage:
        ...     usage.track(user_id, agent_id, input_tokens=812, output_tokens=160, cost_usd="0.0031")

    Publishers of one URL, with the same limits and ids, share a buffer and the thread that sends it; closing one leaves
    the others open. What a publisher has accepted is sent even where it is neither closed nor kept.

    Without any URL a publisher is disabled: it logs that once, takes no event, and opens no thread and no connection.

    Args:
        redis_url: the Redis with the streams; default `USAGE_REDIS_URL`, then `REDIS_URL`.
        disabled: whether to do nothing; default `USAGE_DISABLED`.
        before_send: gets each checked event, all its fields by name, and returns what is sent, or None to drop it.
            If it raises, the event is refused. It runs in `track`.
        on_error: is told about refused and dropped events, in the thread that lost them; see `EventLoss`.
        buffer_bytes: bytes of events that may wait in memory; further events are dropped and counted.
        linger: seconds that an event waits for others before it is sent.
        pack_events: greatest number of events in one stream entry, 3,500 at most.
        ids: "uuid", or "uuid5" for ids that are numbers or texts (`usage_worker.uuid_of`); default `USAGE_IDS`.
        settings: default: what the environment says.
        backfill: workers accept the events that are sent with `send` as long as the ledger keeps their day.

    Raises:
        SettingsError: `ids`, a limit, or a setting that a publisher reads, is wrong; docs/reference/settings.md lists
            the settings.

    Attributes:
        ids: what numbers and texts become UUIDs with; None where ids are UUIDs.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        disabled: bool | None = None,
        before_send: BeforeSend | None = None,
        on_error: OnError | None = None,
        buffer_bytes: int = 64 * 2**20,
        linger: float = 0.1,
        pack_events: int = PACK_EVENTS,
        ids: Literal["uuid", "uuid5"] | None = None,
        settings: PublisherSettings | None = None,
        backfill: bool = False,
    ) -> None:
        settings = settings or load_publisher_settings(redis_url, disabled=disabled)
        switched_off = settings.disabled if disabled is None else disabled
        redis_url = redis_url or settings.redis_url
        ids = ids or settings.ids
        limits = Limits(buffer_bytes, linger, pack_events)
        if ids not in ("uuid", "uuid5"):
            raise SettingsError('ids: must be "uuid" or "uuid5"')
        self.ids = external_ids(settings.id_namespace) if ids == "uuid5" else None
        self._window = AcceptWindow(settings.accept_window)
        self._hooks = Hooks(before_send, on_error)
        self._account = Account(self._hooks.report)
        self._disabled = switched_off or not redis_url
        # Whether `track` may give a row to the sender without a look at anything else.
        self._plain = not self._disabled and before_send is None
        self._sender: Sender | NoSender
        if self._disabled:
            self._sender = NoSender(switched_off=switched_off)
        else:
            # The Redis client takes a third of the time of importing all; a disabled publisher needs none.
            from usage_worker.publisher.senders import senders  # noqa: PLC0415

            namespace = self.ids.namespace if self.ids else None
            servers = (settings.redis_master, settings.redis_replicas)
            key = SenderKey(redis_url, settings.stream_shards, limits, namespace, backfill, *servers)
            self._sender = senders().join(key, self._account)
        self._forget = weakref.finalize(self, self._sender.leave, self._account)
        self._forget.atexit = False  # the senders see to the end of the process

    def track(
        self,
        user_id: UUID | str | int,
        agent_id: UUID | str | int,
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
        conversation_id: UUID | str | int | None = None,
        model: str | None = None,
        provider: str | None = None,
    ) -> str | None:
        """Count one use of an agent; units and bounds are those of `usage_worker.events.event.Event`.

        With an `event_id`, and always the same time or never one, an event that is sent again counts once. Returns the
        event's identity (a UUID as text), or None when it was refused (a field is wrong; the log names it), dropped
        (the buffer is full, or the publisher closed), filtered by `before_send`, or the publisher is disabled. Never
        raises because of the fields or of the state of Redis.
        """
        values = (
            event_id, occurred_at, "usage", user_id, agent_id, messages, input_tokens, output_tokens, tokens,
            cached_input_tokens, cache_write_tokens, reasoning_tokens,
            cost_usd, response_time_ms, success, conversation_id, model, provider, None,
        )  # fmt: skip
        if self._plain and not RECORDERS:
            try:
                row = exact_row(values)
            except AttributeError:  # a UUID that was never initialised
                row = None
            if row is not None:
                identity: str = row[0]
                return identity if self._sender.put(self._account, row) else None
        return self._publish(prepare_values, values)

    def rate(
        self,
        user_id: UUID | str | int,
        agent_id: UUID | str | int,
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
        if RECORDERS and self._account.open:
            for record in tuple(RECORDERS):
                record(event.fields)
            return True
        return self._sender.put(self._account, event.row, event.made, time_is_ours=event.time_is_ours)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every accepted event is in Redis; return False when that takes more than `timeout` seconds.

        A signal handler that has interrupted `track` itself is answered at once, since `track` cannot go on before.
        """
        portions = self._sender.begin_flush(self._account)
        return self._sender.await_sent(self._account, portions, timeout) and not self._account.lost

    async def aflush(self, timeout: float = 10.0) -> bool:  # noqa: ASYNC109 - as that of `flush`
        """Do the same as `flush`, in asyncio or trio, without blocking the event loop."""
        portions = self._sender.begin_flush(self._account)
        # Not 0: where the sender has no thread, it starts one, or sends in this one.
        sent = partial(self._sender.await_sent, self._account, portions, CHECK_SECONDS)
        return await poll(sent, timeout) and not self._account.lost

    def stats(self) -> PublisherStats:
        """Return how many events this publisher accepted, sent, dropped, refused and filtered in this process."""
        return self._sender.stats(self._account)

    def close(self, timeout: float = 5.0) -> None:
        """Send the buffered events for at most `timeout` seconds, and stop; drop and log the rest.

        A signal handler that has interrupted `track` itself is answered at once; the events are sent after it returns.
        """
        self._forget.detach()
        self._sender.close(self._account, timeout)

    shutdown = close

    async def aclose(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - as that of `close`
        """Do the same as `close`, in asyncio or trio, without blocking the event loop."""
        self._sender.shut(self._account)
        await self.aflush(timeout)
        self.close(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def is_counting(self) -> bool:
        """Whether the publisher is enabled, or a test captures its events."""
        return not self._disabled or bool(RECORDERS)

    def _publish(self, preparation: Preparation[T], values: T) -> str | None:
        if not self.is_counting:
            return None
        try:
            event = self._window.prepare(preparation, values, self.ids)
            if self._hooks.before_send:
                fields = event.fields
                filtered = self._hooks.filtered(fields)
                if filtered is None:
                    self._sender.count_filtered(self._account)
                    return None
                if filtered is not fields:
                    event = self._window.prepare(prepare, filtered, self.ids)
        except EventRefusedError as error:
            self._sender.refuse(self._account, error)
            self._account.report("refused", error.detail, fields=lambda: _given(values))
            return None
        return event.event_id if self.send(event) else None


def _given(values: Any) -> dict[str, Any]:
    """Return the fields that an application gave, as it gave them."""
    if isinstance(values, tuple):
        values = dict(zip(NAMES, values, strict=True))
    return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else {}
