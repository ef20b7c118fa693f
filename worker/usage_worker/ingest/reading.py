"""Reading a shard: its entries as batches, small ones of calm traffic, large ones of a backlog."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.events.event import Window
from usage_worker.events.external_ids import external_ids
from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.decode import decode
from usage_worker.ingest.event_array import TextTable
from usage_worker.logs import get_logger
from usage_worker.printable import printable
from usage_worker.queue.holding import DEATHS_BEFORE_ALONE, DEATHS_BEFORE_SET_ASIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.batch_size import BatchSize
    from usage_worker.ingest.clock import DatabaseClock
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.prices import Prices
    from usage_worker.ingest.turn import Turn
    from usage_worker.queue.entry import RawEntry
    from usage_worker.queue.holding import Holding
    from usage_worker.queue.stream import EventStream
    from usage_worker.settings import Settings

log = get_logger("ingest")

# The first read, before anything is known about the size of the entries.
_FIRST_READ = 10
# A read has at most this many times the entries of the one before, and this many in all: large entries may follow
# small ones. A thousand of our packs are 90 MB; less would make reads of small entries slower.
_READ_GROWTH = 10
_MOST_ENTRIES = 1_000
# What is read and decoded at once: until it is an array, an event of another producer takes ten times its bytes.
_READ_EVENTS = 20_000
_READ_BYTES = 8 * 2**20
# A read that fills this share of what it may probably left entries behind.
_FULL = 0.5
# How often a batch that is read ahead asks for more while the one before is counted.
_POLL_SECONDS = 0.2


class Read(NamedTuple):
    """A batch. Where a backlog waits, the next one is prepared while PostgreSQL counts it.

    What was reclaimed is counted before the next read: an entry that may end this process must be the only one at work.
    `is_cut` where entries that were read with it are left, which belong to this turn, too.
    """

    batch: Batch
    may_read_ahead: bool
    is_cut: bool = False


class ShardReader:
    """Reads one shard during one turn."""

    def __init__(
        self,
        stream: EventStream,
        shard: int,
        holding: Holding,
        clock: DatabaseClock,
        size: BatchSize,
        prices: Prices,
        settings: Settings,
    ) -> None:
        self._stream = stream
        self._shard = shard
        self._holding = holding
        self._clock = clock
        self._size = size
        self._prices = prices
        self._settings = settings
        self._count = _FIRST_READ
        # Entries that are not decoded yet, and whether the last read probably left some behind.
        self._read: list[RawEntry] = []
        self._is_full = False
        self._told: set[str] = set()
        # Set while the batch that is being read is waited for.
        self._wanted = threading.Event()

    def batches(self, turn: Turn) -> Iterator[Batch]:
        """Yield the batches of the shard until the turn is over."""
        with ThreadPoolExecutor(1, "usage-read") as reader:
            try:
                yield from self._read_ahead(turn, partial(reader.submit, next, self._reads(turn), None))
            finally:
                self._wanted.set()  # nobody waits for the batch that is read ahead

    def _read_ahead(self, turn: Turn, read_next: Callable[[], Future[Read | None]]) -> Iterator[Batch]:
        upcoming = read_next()
        while read := self._awaited(upcoming):
            ahead = read_next() if read.is_cut or (read.may_read_ahead and not turn.is_over) else None
            yield read.batch
            if turn.is_over and not (ahead or self._read):
                return
            upcoming = ahead or read_next()

    def _awaited(self, upcoming: Future[Read | None]) -> Read | None:
        self._wanted.set()
        read = upcoming.result()
        self._wanted.clear()
        return read

    def _reads(self, turn: Turn) -> Iterator[Read]:
        """Yield entries of vanished workers, and those that wait, for half of the turn at most; then new ones."""
        while True:
            # What became idle at the beginning of this flush or before: what the flush itself reads does not.
            idle = self._settings.reclaim_idle + time.monotonic() - turn.began
            raw = self._stream.reclaim(self._shard, self._holding.consumer, self._count, idle)
            if raw is None:
                break
            self._holding.note(self._shard, raw)
            self._note_size(raw)
            self._read = raw
            while self._read:
                if entries := self._decoded(self._portion(), TextTable()):
                    yield Read(batch_of(entries), may_read_ahead=False)
            if turn.is_half_over:
                break
        yield from self._new(turn)

    def _new(self, turn: Turn) -> Iterator[Read]:
        is_backlog = True
        while is_backlog or (turn.waits and not turn.is_over_without_backlog):
            entries, is_backlog, ready = self._collect(turn)
            if entries:
                yield Read(batch_of(entries), may_read_ahead=is_backlog, is_cut=bool(self._read))
            if turn.is_over and not self._read:
                return
            if turn.waits and not is_backlog:
                turn.rest(ready)

    def _collect(self, turn: Turn) -> tuple[list[DecodedEntry], bool, float]:
        """Read the entries of one batch; return them, whether more wait, and when the first ones were there."""
        entries: list[DecodedEntry] = []
        texts, events, size, ready = TextTable(), 0, 0, time.monotonic()
        while True:
            if not self._read:
                self._read = self._stream.read(
                    self._shard, self._holding.consumer, self._count, 0.0 if entries else turn.to_wait()
                )
                self._holding.note(self._shard, self._read)
                self._is_full = self._note_size(self._read)
            raw = self._portion()
            if raw and not entries:
                ready = time.monotonic()
            decoded = self._decoded(raw, texts)
            entries += decoded
            events += sum(len(entry.events) for entry in decoded)
            size += _bytes(raw)
            may_grow = events < self._size.events and size < self._settings.batch_bytes
            if not may_grow or turn.is_over or not (self._has_more or self._may_wait_for_more()):
                return entries, self._has_more or bool(raw and not turn.waits), ready

    def _may_wait_for_more(self) -> bool:
        """Wait before another read; return False, at once, when the batch is wanted."""
        return not self._wanted.wait(_POLL_SECONDS)

    def _portion(self) -> list[RawEntry]:
        """Take the next entries that were read: at most `_READ_BYTES`, or one."""
        sizes = accumulate(entry.size for entry in self._read)
        taken = max(sum(size <= _READ_BYTES for size in sizes), 1)
        portion, self._read = self._read[:taken], self._read[taken:]
        return portion

    @property
    def _has_more(self) -> bool:
        return bool(self._read) or self._is_full

    def _note_size(self, raw: list[RawEntry]) -> bool:
        """Read as many entries of this size next time as make a full read; return whether this was one."""
        if not raw:
            return False
        most = min(_READ_EVENTS, self._size.events)
        fill = max(_events(raw) / most, _bytes(raw) / _READ_BYTES)
        is_full = len(raw) >= self._count or fill >= _FULL
        self._count = max(1, min(int(len(raw) / fill), most, self._count * _READ_GROWTH, _MOST_ENTRIES))
        return is_full

    def _decoded(self, raw: list[RawEntry], texts: TextTable) -> list[DecodedEntry]:
        """Decode what was read, without what waits for a newer worker."""
        if not raw:
            return []
        now = self._clock.now()
        window = Window.around(now, self._settings.accept_window)
        backfill = Window.of_backfill(now, self._settings.retention_days)
        entries, newer, events = decode(
            self._stream.key(self._shard),
            raw,
            window,
            texts,
            backfill=backfill,
            ids=external_ids(self._settings.id_namespace),
            takes_any_id=self._settings.takes_any_id,
        )
        self._prices.fill(events, texts)
        if DEATHS_BEFORE_ALONE <= raw[0].deaths < DEATHS_BEFORE_SET_ASIDE:
            self._holding.decoded(self._shard)
        if newer:
            self._stream.leave_waiting(self._shard, list(newer))
            self._tell("entries wait for a newer worker", newer)
        if left_out := {entry.entry_id: entry.ids_problem for entry in entries if entry.ids_problem}:
            self._tell("originals of ids are not kept; the events are counted", left_out)
        return entries

    def _tell(self, what: str, reasons: dict[str, str]) -> None:
        """Log what there is about entries, with the first reason, once in a turn."""
        if what not in self._told:
            self._told.add(what)
            log.warning(what, shard=self._shard, entries=len(reasons), reason=printable(next(iter(reasons.values()))))


def _events(raw: list[RawEntry]) -> int:
    return sum(entry.declared for entry in raw)


def _bytes(raw: list[RawEntry]) -> int:
    return sum(entry.size for entry in raw)
