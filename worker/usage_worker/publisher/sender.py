"""The thread that sends the events of all publishers with one URL and the same limits.

Events that cannot be sent yet wait in the buffer; events for which it has no room are dropped, counted and logged. A
pack that may have arrived is sent again under the same key, and the database counts it once. Where no thread can start,
`flush` and `close` send from the calling thread.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from usage_worker.events.wire import fields_of
from usage_worker.publisher.buffer import Buffer
from usage_worker.publisher.pack_sender import PackSender
from usage_worker.publisher.rate_limited_log import RateLimitedLog, say
from usage_worker.publisher.redis_watch import warn_of
from usage_worker.publisher.sender_thread import SenderThread
from usage_worker.publisher.workers_watch import WorkersWatch
from usage_worker.queue.stream import EventStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usage_worker.events.columns import Row
    from usage_worker.events.external_ids import ExternalId
    from usage_worker.publisher.account import Account, Portion, PublisherStats
    from usage_worker.publisher.buffer import Lane
    from usage_worker.publisher.sender_key import SenderKey
    from usage_worker.publisher.sender_lock import SenderLock

# A wait is repeated after this time: what the garbage collector calls in the waiting thread cannot wake it.
RECHECK_SECONDS = 5.0


class Sender:
    """Buffer and sender of prepared events; safe to share between threads, and started over in a forked child.

    `on_event` is called when an event wakes the thread, `on_end` when no publisher is left and all events are sent.
    """

    def __init__(
        self,
        key: SenderKey,
        shared: SenderLock,
        on_event: Callable[[], None],
        on_end: Callable[[Sender], None],
    ) -> None:
        self.key = key
        self._on_event = on_event
        self._on_end = on_end
        self._accounts: set[Account] = set()
        self.start_over(shared)

    def start_over(self, shared: SenderLock) -> bool:
        """Begin with an empty buffer, as a forked child does, whose parent sends the events that it has.

        Returns whether any publisher uses this sender.
        """
        url, shards, limits, namespace, is_backfill, master, replicas = self.key
        self._shared, self._is_held, self._postponed = shared, shared.is_held, shared.postponed
        # Entered directly: a Condition does it in Python, which costs 0.15 µs for each event.
        self._lock, self._changed = shared.lock, threading.Condition(shared.lock)
        self._thread = SenderThread(self._run, shared, self._changed)
        self._stream = EventStream(url, shards, warn_of, master=master, replicas=replicas)
        self._buffer = Buffer(shards, limits.buffer_bytes, is_backfill=is_backfill)
        self._log_limited = RateLimitedLog()
        watch = WorkersWatch(self._stream, namespace)
        self._packs = PackSender(url, limits, self._stream, self._buffer, self._changed, self._log_limited, watch)
        self._announced = (1, limits.pack_events)
        for account in self._accounts:
            account.start_over()
        return bool(self._accounts)

    def join(self, account: Account) -> None:
        """Take the events of a publisher from now on."""
        self._accounts.add(account)

    def leave(self, account: Account) -> None:
        """Take no more events of a publisher, since nobody refers to it; what it has accepted is still sent."""
        self._postponed.append(partial(self._leave, account))
        self._shared.leave()

    def put(self, account: Account, row: Row, made: Sequence[ExternalId] = (), *, time_is_ours: bool = False) -> bool:
        """Buffer an event, and its ids that were made; return False without room, or where the publisher is closed."""
        if self._is_held():
            return self._postpone(account, row, made, time_is_ours=time_is_ours)
        dropped, full = "", None
        while True:
            with self._lock:
                lane = self._buffer.add(account, row, made, time_is_ours=time_is_ours) if account.open else None
                if lane:
                    waiting = len(lane.portions)
                    if waiting in self._announced or self._thread.running is None:
                        self._announce(lane, waiting)
                elif not (account.open and self._buffer.can_shrink(full := self._buffer.full_lane)):
                    account.dropped += 1
                    dropped = self._drop_reason(account)
            if self._postponed:
                self._shared.leave()
            if lane:
                if self._thread.problem:
                    self._log_limited(logging.WARNING, "events wait: %s", self._thread.problem)
                return True
            if dropped:
                return self._report_dropped(account, row, dropped)
            # The thread may wait for Redis, for seconds. The columns of one pack leave room for 380 events.
            self._packs.write(1, full)

    def refuse(self, account: Account, reason: object) -> None:
        """Count and log an event that can never be sent."""
        with self._lock:
            account.refused += 1
        self._log_limited(logging.WARNING, "%s", reason)

    def count_filtered(self, account: Account) -> None:
        """Count an event that the application's `before_send` dropped."""
        with self._lock:
            account.filtered += 1

    def begin_flush(self, account: Account) -> Sequence[Portion]:
        """Send what waits for other events; return the portions of all events up to now, for `await_sent`."""
        if self._is_held():  # the interrupted `put` may have taken the portion in which it will count its event
            self._packs.make_due()
            return account.portions()
        self._shared.leave()
        with self._lock:
            self._packs.make_due()
            return account.cut()

    def await_sent(self, account: Account, portions: Sequence[Portion], timeout: float) -> bool:
        """Wait until Redis has these events, or they are lost; return False when that takes longer than `timeout`."""
        if self._is_held():  # whatever has interrupted this thread cannot wait for it
            return not account.unsent
        return self._await(lambda: bool(account.lost) or not any(portion.unsent for portion in portions), timeout)

    def stats(self, account: Account) -> PublisherStats:
        """Return how many events of a publisher were accepted, sent, dropped and refused."""
        with self._lock:
            return account.stats(self._holding)

    def shut(self, account: Account) -> None:
        """Take no more events of a publisher."""
        with self._lock:
            account.open = False

    def close(self, account: Account, timeout: float) -> None:
        """Send the events of a publisher for at most `timeout` seconds; drop and log the rest.

        Where it has interrupted this thread in `put`, it waits for nothing, and all events are sent afterwards.
        """
        self.shut(account)
        if self._is_held():
            self.leave(account)
            return
        self._release({account}, lambda: not account.unsent, timeout)

    def finish(self, timeout: float) -> None:
        """Close all publishers, as `close` does, at the end of the process."""
        self._shared.leave()
        with self._lock:
            accounts = self._accounts | self._buffer.owners()
            for account in accounts:
                account.open = False
        self._release(accounts, lambda: not self._buffer.bytes, timeout)

    def make_due(self) -> None:
        """Have what waits for other events sent at once, without waiting until it is."""
        self._shared.leave()
        with self._lock:
            self._packs.make_due()

    def stop_lingering(self) -> None:
        """Have what waits for other events, and from now on each event, sent at once."""
        with self._lock:
            self._packs.stop_lingering()

    def await_buffered(self, timeout: float) -> None:
        """Wait until Redis has the events of all publishers up to now, for at most `timeout` seconds."""
        self._shared.leave()
        with self._lock:
            portions = [portion for account in self._accounts | self._buffer.owners() for portion in account.cut()]
        self._await(lambda: not any(portion.unsent for portion in portions), timeout)

    @property
    def _holding(self) -> str:
        return self._thread.problem or self._packs.holding

    def _drop_reason(self, account: Account) -> str:
        if not account.open:
            return "the publisher is closed"
        if not self._thread.running:
            self._thread.start()
        return f"the buffer is full ({self._holding or 'sending lags'})"

    def _report_dropped(self, account: Account, row: Row, reason: str) -> bool:
        self._log_limited(logging.ERROR, "event dropped: %s", reason)
        account.report("dropped", reason, fields=lambda: fields_of(row))
        return False

    def _postpone(self, account: Account, row: Row, made: Sequence[ExternalId], *, time_is_ours: bool) -> bool:
        """Accept an event of what has interrupted this thread while it changes the buffer, which gets it later."""
        if account.open and self._buffer.has_room(len(self._postponed) + 1):
            account.postponed += 1
            self._postponed.append(partial(self._admit, account, row, made, time_is_ours=time_is_ours))
            return True
        account.dropped += 1
        return self._report_dropped(account, row, "the buffer is full" if account.open else "the publisher is closed")

    def _admit(self, account: Account, row: Row, made: Sequence[ExternalId], *, time_is_ours: bool) -> None:
        lane = self._buffer.add(account, row, made, time_is_ours=time_is_ours, is_accepted=True)
        account.postponed -= 1
        if lane:
            self._announce(lane, len(lane.portions))

    def _leave(self, account: Account) -> None:
        account.open = False
        self._accounts.discard(account)
        self._packs.make_due()
        self._end_if_unused()

    def _announce(self, lane: Lane, waiting: int) -> None:
        """Wake the thread for a first event or a full pack; start it where there is none, also after one has died."""
        self._packs.announce(lane, waiting)
        if self._thread.running or self._thread.start():
            self._changed.notify_all()
        self._on_event()  # last, since it takes longest: a signal handler may raise at any time

    def _run(self) -> None:
        try:
            while self._due():
                self._packs.send()
        finally:
            # Whatever has ended the thread, the packs are still in the buffer, and the next event starts another one.
            with self._lock:
                self._thread.ended()
                self._end_if_unused()
                self._changed.notify_all()
            self._shared.leave()

    def _due(self) -> bool:
        """Wait until packs are due; return False when no publisher is left and all events are sent."""
        with self._lock:
            while True:
                self._shared.run_postponed()
                if not (self._accounts or self._buffer.bytes):
                    self._thread.running = None  # what is published from here on needs another one
                    return False
                seconds = self._packs.seconds_until_due()
                if seconds <= 0:
                    return True
                self._changed.wait(min(seconds, RECHECK_SECONDS))

    def _await(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until `done`, or the timeout; send in this thread as long as no other can start."""
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                if done():
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if not self._thread.running and self._thread.start():
                    continue  # it may have sent everything meanwhile
                # Where a signal handler has interrupted the start of the thread, waiting for it would be in vain.
                is_sent_there = self._thread.running and not self._thread.is_starting
                pause = left if is_sent_there else self._packs.seconds_until_due()
                if pause > 0:
                    self._changed.wait(min(pause, left, RECHECK_SECONDS))
                    continue
            self._packs.send(left)

    def _release(self, accounts: set[Account], sent: Callable[[], bool], timeout: float) -> None:
        """Wait until the events of closed publishers are sent; drop the rest, and stop if no publisher is left."""
        deadline = time.monotonic() + timeout
        self.make_due()
        self._await(sent, timeout)
        with self._lock:
            reason = self._holding or "not sent in time"
            dropped = self._buffer.drop(accounts)
            self._accounts -= accounts
            ending = None if self._accounts else self._thread.running
            self._end_if_unused()
            self._changed.notify_all()
        if dropped:
            say(logging.ERROR, "%d events dropped at close: %s", sum(dropped.values()), reason)
        for account, events in dropped.items():
            account.report("dropped", reason, events)
        if ending and not self._thread.is_starting and ending is not threading.current_thread():
            ending.join(max(deadline - time.monotonic(), 0))

    def _end_if_unused(self) -> None:
        if not (self._accounts or self._buffer.bytes or self._thread.running):
            self._on_end(self)
            self._stream.close()
