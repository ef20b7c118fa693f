"""What writes and sends the packs of a buffer: whoever calls it, the sender's thread or, where none starts, another."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from usage_worker.errors import named
from usage_worker.masking import Mask
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.publisher.buffer import Retry
from usage_worker.publisher.redis_watch import RedisWatch

if TYPE_CHECKING:
    from usage_worker.errors import StreamUnavailableError
    from usage_worker.publisher.buffer import Buffer, Lane, Sealed
    from usage_worker.publisher.rate_limited_log import RateLimitedLog
    from usage_worker.publisher.sender_key import Limits
    from usage_worker.publisher.workers_watch import WorkersWatch
    from usage_worker.queue.entry import Pack
    from usage_worker.queue.stream import EventStream

_NEVER = float("inf")


class PackSender:
    """The rounds in which a buffer's packs are sent; `changed` has the sender's lock, and is notified after each."""

    def __init__(
        self,
        redis_url: str,
        limits: Limits,
        stream: EventStream,
        buffer: Buffer,
        changed: threading.Condition,
        log: RateLimitedLog,
        workers_watch: WorkersWatch,
    ) -> None:
        self._mask = Mask([redis_url], [])
        self._stream, self._buffer, self._changed, self._log_limited = stream, buffer, changed, log
        self._sending = threading.Lock()
        self._watch, self._workers_watch = RedisWatch(stream.connection, buffer.memory_limit), workers_watch
        self._retry = Retry()
        self._linger, self._pack_events = limits.linger, limits.pack_events
        # When the events that wait for others are due, on the monotonic clock.
        self._ripe = _NEVER

    @property
    def holding(self) -> str:
        """Why packs wait, all or those of one shard, or an empty string."""
        return self._retry.reason or self._buffer.holding()

    def announce(self, lane: Lane, waiting: int) -> None:
        """Seal a lane whose waiting events fill a pack; others are due after `linger`. Needs the lock."""
        if waiting == self._pack_events:
            self._buffer.seal(lane)
        elif self._ripe == _NEVER:
            self._ripe = time.monotonic() + self._linger

    def make_due(self) -> None:
        """Have what waits for other events sent at once; needs the lock."""
        if self._buffer.bytes:
            self._ripe = 0.0
        self._changed.notify_all()

    def stop_lingering(self) -> None:
        """Have what waits for other events, and from now on each event, sent at once; needs the lock."""
        self._linger = 0.0
        self.make_due()

    def seconds_until_due(self) -> float:
        """Return when packs are to be written or sent next; needs the lock."""
        if self._ripe == _NEVER and self._buffer.has_waiting:
            self._ripe = 0.0  # what a signal handler raised has ended `put` before it announced them
        sending = max(self._buffer.next_due(self._ripe), self._retry.due)
        return min(sending, self._buffer.next_writing()) - time.monotonic()

    def send(self, patience: float = -1) -> None:
        """Send the packs that are due; keep those that Redis does not take, with the reason.

        Args:
            patience: seconds to wait for another thread's round to end; by default until it has.
        """
        # Two threads would append the same packs twice; the other one may be in its last round.
        if not self._sending.acquire(timeout=patience):
            return
        try:
            self._seal()
            self.write()
            if packs := self._take():
                listed = [(sealed.lane.shard, pack) for sealed, pack in packs]
                self._settle(packs, self._stream.offer(listed, self._look))
        except Exception as error:  # noqa: BLE001 - whatever it is: without this thread nothing would ever be sent
            with self._changed:
                self._retry.failed(self._text(error))
            self._log_limited(logging.WARNING, "holding events back: %s", self._retry.reason)
        finally:
            self._sending.release()

    def write(self, most: int | None = None, lane: Lane | None = None) -> None:
        """Write the columns of sealed packs, also while Redis does not answer: they take a quarter of the memory.

        Args:
            most: the number of packs; by default all.
            lane: whose packs; by default those of all.
        """
        with self._changed:
            unwritten = self._buffer.unwritten(most, lane)
        while unwritten:
            # Taken out of the list, so that the rows of a pack are freed when the buffer no longer counts them.
            sealed, values = unwritten.pop(0)
            try:
                pack = sealed.make_pack(values)
            except Exception as error:  # noqa: BLE001 - whatever it is, it keeps this pack alone
                with self._changed:
                    sealed.retry.failed(self._text(error))
                self._log_limited(logging.WARNING, "holding events back: %s", sealed.retry.reason)
            else:
                del values
                with self._changed:
                    self._buffer.keep_written(sealed, pack)

    def _look(self, server: str) -> None:
        self._watch.check(server, now=bool(self._retry.reason))
        self._workers_watch.check()

    def _seal(self) -> None:
        with self._changed:
            now = time.monotonic()
            if self._retry.due <= now:
                self._buffer.seal_due(ripe=self._ripe <= now)
                self._ripe = _NEVER if self._ripe <= now else self._ripe

    def _take(self) -> list[tuple[Sealed, Pack]]:
        with self._changed:
            return self._buffer.due() if self._retry.due <= time.monotonic() else []

    def _settle(self, packs: list[tuple[Sealed, Pack]], answers: list[StreamUnavailableError | None]) -> None:
        """Count each answer for itself: what Redis has is sent, what it refused is kept."""
        refusals = {sealed.lane: answer for (sealed, _), answer in zip(packs, answers, strict=True) if answer}
        with self._changed:
            self._retry.succeeded()
            for (sealed, _), answer in zip(packs, answers, strict=True):
                if answer is None:
                    self._buffer.settle(sealed)
            for lane in {sealed.lane for sealed, _ in packs}:
                if lane in refusals:
                    self._buffer.refuse(lane, self._text(refusals[lane], f"shard {lane.shard}: "))
                else:
                    self._buffer.accept(lane)
            self._changed.notify_all()
        for lane in refusals:
            self._log_limited(logging.WARNING, "holding events back: %s", lane.retry.reason)

    def _text(self, error: Exception, prefix: str = "") -> str:
        return printable(self._mask(prefix + named(error)), REASON_LENGTH)
