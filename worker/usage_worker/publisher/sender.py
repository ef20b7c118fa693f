"""The bounded buffer of a publisher, and the thread that sends it to the stream.

Events that cannot be sent yet wait in the buffer; events for which it has no room are dropped, counted and logged. A
pack that may have arrived is sent again under the same key, and the database counts it once.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from uuid_utils.compat import uuid7

from usage_worker.errors import StreamUnavailableError
from usage_worker.publisher.rate_limited_log import log
from usage_worker.queue.stream import Pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.publisher.rate_limited_log import RateLimitedLog
    from usage_worker.queue.stream import EventStream

T = TypeVar("T")

# Celery shares Redis with the stream and cannot even acknowledge when Redis is full, so we stop well before.
REDIS_MEMORY_LIMIT = 0.8
PACKS_AT_ONCE = 16
LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Numbers of events. accepted = sent + buffered + dropped after acceptance; refused events were never accepted."""

    accepted: int
    sent: int
    buffered: int
    dropped: int
    refused: int
    holding: str
    """Why no event is being sent at the moment, or an empty string."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that may wait, seconds that an event waits for others, and events in an entry."""

    buffer_bytes: int
    linger: float
    pack_events: int


class Sender:
    """Buffer and sender of prepared events; safe to share between threads, but not across a fork."""

    def __init__(self, stream: EventStream, limits: Limits, log_limited: RateLimitedLog) -> None:
        self._stream = stream
        self._limits = limits
        self._log_limited = log_limited
        self._changed = threading.Condition()
        self._give_up = threading.Event()
        self._thread: threading.Thread | None = None
        self._buffers: list[list[bytes]] = [[] for _ in range(stream.shards)]
        self._buffered = self._bytes = 0
        self._accepted = self._sent = self._dropped = self._lost = self._refused = 0
        self._closing = self._hurry = False
        self._holding = ""
        self._memory_checked = 0.0

    def put(self, shard: int, body: bytes) -> bool:
        """Buffer an event in canonical form; return False when there is no room for it or the sender is closed."""
        with self._changed:
            if not self._closing and self._bytes + len(body) <= self._limits.buffer_bytes:
                self._take(shard, body)
                return True
            self._dropped += 1
            full = f"the buffer is full ({self._holding or 'sending lags'})"
            reason = "the publisher is closed" if self._closing else full
        self._log_limited(logging.ERROR, "event dropped: %s", reason)
        return False

    def refuse(self, reason: object) -> None:
        """Count and log an event that can never be sent."""
        with self._changed:
            self._refused += 1
        self._log_limited(logging.WARNING, "%s", reason)

    def flush(self, timeout: float) -> bool:
        """Wait until every accepted event is in Redis; return False when that takes more than `timeout` seconds."""
        with self._changed:
            target = self._accepted
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._sent + self._lost >= target, timeout) and not self._lost

    def stats(self) -> PublisherStats:
        """Return how many events were accepted, sent, dropped and refused."""
        with self._changed:
            buffered = self._accepted - self._sent - self._lost
            return PublisherStats(
                self._accepted, self._sent, buffered, self._dropped + self._lost, self._refused, self._holding
            )

    def close(self, timeout: float) -> None:
        """Send the buffered events for at most `timeout` seconds, and stop; drop and log the rest."""
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

    def _take(self, shard: int, body: bytes) -> None:
        self._buffers[shard].append(body)
        self._buffered += 1
        self._bytes += len(body)
        self._accepted += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="usage-publisher", daemon=True)
            self._thread.start()
        elif self._buffered in (1, self._limits.pack_events):
            self._changed.notify_all()

    def _run(self) -> None:
        while batch := self._next_batch():
            for packs in _chunks(list(self._packs(batch)), PACKS_AT_ONCE):
                if not self._send(packs):
                    return

    def _next_batch(self) -> list[list[bytes]]:
        """Wait for events and linger; return all that are buffered, by shard, or an empty list at the end."""
        enough, linger = self._limits.pack_events, self._limits.linger
        with self._changed:
            self._changed.wait_for(lambda: self._buffered or self._closing)
            self._changed.wait_for(lambda: self._buffered >= enough or self._closing or self._hurry, linger)
            batch = self._buffers if self._buffered else []
            self._buffers = [[] for _ in self._buffers]
            self._buffered = 0
            self._hurry = False
            return batch

    def _packs(self, batch: list[list[bytes]]) -> Iterator[tuple[int, Pack]]:
        for shard, bodies in enumerate(batch):
            for events in _chunks(bodies, self._limits.pack_events):
                yield shard, Pack(uuid7(), events)

    def _send(self, packs: list[tuple[int, Pack]]) -> bool:
        """Send the packs until Redis has them; return False when the sender was closed before."""
        pause = 0.05
        while True:
            try:
                self._check_redis_memory()
                self._stream.append(packs)
            except StreamUnavailableError as error:
                self._holding = str(error)
                self._log_limited(logging.WARNING, "holding events back: %s", error)
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

    def _check_redis_memory(self) -> None:
        """Check the memory of Redis once per second.

        Raises:
            StreamUnavailableError: it is nearly full; the workers need the rest to drain it.
        """
        if not self._holding and time.monotonic() - self._memory_checked < 1:
            return
        used = self._stream.memory_used()
        if used > REDIS_MEMORY_LIMIT:
            raise StreamUnavailableError(f"its memory is {used:.0%} full, and we stop at {REDIS_MEMORY_LIMIT:.0%}")
        self._memory_checked = time.monotonic()


def _chunks(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
