"""The flush: read a shard, count and acknowledge what was read, until its turn is over."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.errors import StreamRefusedError, StreamUnavailableError, first_line
from usage_worker.events.event import Window
from usage_worker.ingest.apply import Applier
from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.clock import database_clock
from usage_worker.ingest.entries import decode, set_aside
from usage_worker.ingest.turn import Turn
from usage_worker.logs import get_logger
from usage_worker.printable import printable
from usage_worker.queue.claim import FlushClaim
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.holding import DEATHS_BEFORE_ALONE, DEATHS_BEFORE_SET_ASIDE, Holding
from usage_worker.queue.stream import newer_version
from usage_worker.store import Intake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.clock import DatabaseClock
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.queue.stream import EventStream, RawEntry
    from usage_worker.settings import Settings
    from usage_worker.store import Store

log = get_logger("ingest")

# The first read of a flush, before anything is known about the size of the entries.
_FIRST_READ = 10
# A read that fills this share of a batch probably left entries behind.
_FULL = 0.5


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What one flush counted; `seconds` is wall time, `cut_short` is true when its time budget was spent.

    `successor` is the token with which the next flush of the shard claims it, None where this one must not send for it.
    """

    shard: int
    batches: int = 0
    intake: Intake = field(default_factory=Intake)
    seconds: float = 0.0
    cut_short: bool = False
    successor: str | None = None

    def as_dict(self) -> dict[str, Any]:
        figures = asdict(self)
        del figures["intake"], figures["successor"]
        return figures | self.intake._asdict() | {"seconds": round(self.seconds, 3)}


class Read(NamedTuple):
    """The batch of one read, and which share of a full batch it is, by events or by bytes, whichever is larger.

    What was reclaimed is counted before the next read: an entry that may end this process must be the only one at work.
    """

    batch: Batch
    fill: float
    reclaimed: bool


class Flusher:
    """Flushes shards as one consumer of the group."""

    def __init__(self, stream: EventStream, store: Store, settings: Settings, consumer: str) -> None:
        self._stream = stream
        self._claim = FlushClaim(stream.connection, consumer)
        self._records = FlushRecords(stream.connection)
        self._store = store
        self._applier = Applier(store, settings.unknown)
        self._settings = settings
        self._told_of_newer: set[int] = set()
        self._holding = Holding(stream.connection, consumer, settings.reclaim_idle)

    def flush_alone(self, shard: int, token: str | None = None, turn: Turn | None = None) -> FlushReport:
        """Flush a shard unless another consumer does, since they would wait for each other's rows.

        Args:
            shard: its number.
            token: the successor of the flush before; None for a tick.
            turn: how long to go on; by default until the shard is empty or `USAGE_FLUSH_BUDGET` is spent.

        Raises:
            UsageError: see `flush`. The shard then has no successor: the next tick tries again.
        """
        if not self._claim.take(shard, token):
            return FlushReport(shard)
        try:
            report = self._flush_recorded(shard, turn or Turn(self._settings.flush_budget), renew=True)
        except BaseException:
            with suppress(StreamUnavailableError):
                self._claim.release(shard)
            raise
        with suppress(StreamUnavailableError):
            return replace(report, successor=self._claim.hand_over(shard, self._settings.trigger_expires))
        return report

    def flush(self, shard: int, budget: float | None = None) -> FlushReport:
        """Count the entries of a shard until it is empty or `budget` seconds (default: `USAGE_FLUSH_BUDGET`) are spent.

        Raises:
            StoreUnavailableError, StreamUnavailableError, ConcurrencyError: what was read stays in the stream and is
                reclaimed later.
            ClockError: this machine's clock is wrong; nothing was read.
        """
        return self._flush_recorded(shard, Turn(self._settings.flush_budget if budget is None else budget))

    def _flush_recorded(self, shard: int, turn: Turn, *, renew: bool = False) -> FlushReport:
        try:
            return self._flush(shard, turn, renew=renew)
        except Exception as error:
            # A Redis that does not answer has nowhere to record it.
            if not isinstance(error, StreamUnavailableError) or isinstance(error, StreamRefusedError):
                self._records.failed(shard, printable(first_line(error)))
            raise

    def _flush(self, shard: int, turn: Turn, *, renew: bool) -> FlushReport:
        batches, intake = 0, Intake()
        # Before anything is read: without the database, an entry that was read would only wait to be reclaimed.
        clock = database_clock(self._store)
        self._told_of_newer.discard(shard)
        with self._holding.during(shard):
            for read in self._read_ahead(shard, turn, clock):
                intake += self._count(shard, read.batch)
                batches += 1
                if renew:
                    self._claim.take(shard)
        now = time.monotonic()
        report = FlushReport(shard, batches, intake, now - turn.began, cut_short=now >= turn.deadline)
        if batches:
            log.info("flushed", **report.as_dict())
        self._records.succeeded(shard)
        return report

    def _count(self, shard: int, batch: Batch) -> Intake:
        try:
            intake = self._applier.apply(batch)
        finally:
            # Only after the commit may the entries leave Redis; a batch that was halved may be counted in part.
            if counted := [entry for entry in batch.entries if entry.is_counted]:
                self._stream.done(shard, [entry.entry_id for entry in counted])
                self._holding.survived(shard, [entry.entry_id for entry in counted if entry.raw.deaths])
        self._records.counted(shard, intake.accepted, intake.quarantined)
        if any(entry.waiting for entry in batch.entries):
            self._records.waiting(shard, self._applier.held.holders)
        if intake.quarantined:
            log.warning("quarantined", shard=shard, events=intake.quarantined)
        return intake

    def _read_ahead(self, shard: int, turn: Turn, clock: DatabaseClock) -> Iterator[Read]:
        """Yield the batches of a shard until the turn is over.

        While PostgreSQL counts one batch of a backlog, a thread reads and builds the next. Without a backlog the next
        read waits, so that the events that arrive meanwhile become one batch.
        """
        with ThreadPoolExecutor(1, "usage-read") as reader:
            read_next = partial(reader.submit, next, self._reads(shard, turn, clock), None)
            upcoming = read_next()
            while read := upcoming.result():
                at_once = read.fill >= _FULL and not read.reclaimed
                ahead = read_next() if at_once and not turn.is_over else None
                yield read
                if not ahead and turn.is_over:
                    return
                upcoming = ahead or read_next()

    def _reads(self, shard: int, turn: Turn, clock: DatabaseClock) -> Iterator[Read]:
        """Yield reclaimed entries of vanished workers first, then new ones."""
        count = _FIRST_READ
        while True:
            # What became idle at the beginning of this flush or before: what the flush itself reads does not.
            idle = self._settings.reclaim_idle + time.monotonic() - turn.began
            raw = self._stream.reclaim(shard, self._holding.consumer, count, idle)
            if raw is None:
                break
            if read := self._read(shard, raw, clock, reclaimed=True):
                yield read
                count = self._next_count(read)
        is_backlog = True
        while is_backlog or (turn.waits and not turn.is_over_without_backlog):
            started = time.monotonic()
            raw = self._stream.read(shard, self._holding.consumer, count, turn.to_wait())
            ready = time.monotonic() if raw else started
            is_backlog = len(raw) == count or bool(raw and not turn.waits)
            if raw and (read := self._read(shard, raw, clock)):
                yield read
                is_backlog |= read.fill >= _FULL
                count = self._next_count(read)
            elif turn.is_over:
                return
            if turn.waits and not is_backlog:
                turn.rest(ready)

    def _read(self, shard: int, raw: list[RawEntry], clock: DatabaseClock, *, reclaimed: bool = False) -> Read | None:
        """Build the batch of what was read; None if all of it waits for a newer worker."""
        self._holding.note(shard, raw)
        raw = self._without_newer(shard, raw)
        if not raw:
            return None
        stream = self._stream.key(shard)
        window = Window.around(clock.now(), self._settings.accept_window)
        batch = batch_of([_decoded(stream, entry, window) for entry in raw])
        if DEATHS_BEFORE_ALONE <= raw[0].deaths < DEATHS_BEFORE_SET_ASIDE:
            self._holding.decoded(shard)
        events = sum(entry.declared for entry in raw)
        size = sum(len(entry.body or b"") for entry in raw)
        fill = max(events / self._settings.batch_events, size / self._settings.batch_bytes)
        return Read(batch, fill, reclaimed)

    def _without_newer(self, shard: int, raw: list[RawEntry]) -> list[RawEntry]:
        """Leave the entries that only a newer worker can read; return the others."""
        newer = {entry.entry_id: version for entry in raw if (version := newer_version(entry))}
        if not newer:
            return raw
        self._stream.leave_waiting(shard, list(newer))
        if shard not in self._told_of_newer:
            self._told_of_newer.add(shard)
            log.warning("entries wait for a newer worker", shard=shard, version=max(newer.values()))
        return [entry for entry in raw if entry.entry_id not in newer]

    def _next_count(self, read: Read) -> int:
        """Return how many entries of this size make a full batch."""
        entries = len(read.batch.entries)
        return max(1, min(int(entries / read.fill), self._settings.batch_events)) if read.fill else _FIRST_READ


def _decoded(stream: str, entry: RawEntry, window: Window) -> DecodedEntry:
    # One that has ended the worker which tried it alone is not decoded again.
    return decode(stream, entry, window) if entry.deaths < DEATHS_BEFORE_SET_ASIDE else set_aside(stream, entry)
