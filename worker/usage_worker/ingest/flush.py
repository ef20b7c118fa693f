"""The flush: read a shard, count what was read, let go of it, until nothing is left or the time is up."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.errors import StreamUnavailableError, UsageError
from usage_worker.events.event import Window
from usage_worker.ingest.apply import Applier
from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.entries import decode
from usage_worker.logs import get_logger
from usage_worker.printable import printable
from usage_worker.store import Intake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.ingest.batch import Batch
    from usage_worker.queue.stream import EventStream, RawEntry
    from usage_worker.settings import Settings
    from usage_worker.store import Store

log = get_logger("ingest")

# The first read of a flush, before anything is known about the size of the entries.
_FIRST_READ = 10
# After a batch of so many events more are on their way: seconds to wait for them instead of leaving them to the next
# tick, while a processor stands idle.
_BUSY = 1_000
_LINGER = 0.1
# So much of a batch, and more is waiting.
_FULL = 0.5


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What one flush did; `seconds` is wall time, `cut_short` says that its time budget was spent."""

    shard: int
    batches: int = 0
    intake: Intake = field(default_factory=Intake)
    seconds: float = 0.0
    cut_short: bool = False

    def as_dict(self) -> dict[str, Any]:
        figures = asdict(self)
        del figures["intake"]
        return figures | self.intake._asdict() | {"seconds": round(self.seconds, 3)}


class Read(NamedTuple):
    """What was read from a shard, and how much of a batch it is, by events and by bytes."""

    batch: Batch
    fill: float


class Flusher:
    """Drains shards on behalf of one consumer."""

    def __init__(self, stream: EventStream, store: Store, settings: Settings, consumer: str) -> None:
        self._stream = stream
        self._store = store
        self._applier = Applier(store, settings.unknown)
        self._settings = settings
        self._consumer = consumer

    def flush_alone(self, shard: int) -> FlushReport:
        """Like `flush`, but leave at once where another one is at work: they would wait for each other's rows."""
        if not self._stream.claim(shard, self._consumer):
            return FlushReport(shard)
        try:
            return self.flush(shard, renew=True)
        finally:
            with suppress(StreamUnavailableError):
                self._stream.unclaim(shard, self._consumer)

    def flush(self, shard: int, budget: float | None = None, *, renew: bool = False) -> FlushReport:
        """Count what waits in a shard; ends when it is empty or `budget` seconds (default: the setting) are spent.

        Raises:
            StoreUnavailableError, StreamUnavailableError: what was read stays in the stream and is reclaimed later.
            ConcurrencyError: likewise.
        """
        try:
            return self._flush(shard, self._settings.flush_budget if budget is None else budget, renew=renew)
        except StreamUnavailableError:
            raise  # nowhere to note it
        except Exception as error:
            self._note_failure(shard, error)
            raise

    def _flush(self, shard: int, budget: float, *, renew: bool) -> FlushReport:
        started = time.monotonic()
        deadline = started + budget
        batches, intake = 0, Intake()
        # Asked before anything is read: with the database away, entries had better stay where they are.
        self._store.ping()
        for read in self._read_ahead(shard, deadline):
            intake += self._count(shard, read.batch)
            batches += 1
            if renew:
                self._stream.claim(shard, self._consumer)
        now = time.monotonic()
        report = FlushReport(shard, batches, intake, now - started, cut_short=now >= deadline)
        if batches:
            log.info("flushed", **report.as_dict())
        return report

    def _note_failure(self, shard: int, error: Exception) -> None:
        """Leave the error where `status` finds it; not what stands below its first line, which may quote rows."""
        first_line = next(iter(str(error).splitlines()), "")
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        with suppress(StreamUnavailableError):
            self._stream.note_failure(shard, printable(kind + first_line))

    def _count(self, shard: int, batch: Batch) -> Intake:
        intake = self._applier.apply(batch)
        # Only now, when they are committed, may the entries leave Redis.
        self._stream.done(shard, [entry.entry_id for entry in batch.entries])
        if intake.quarantined:
            log.warning("quarantined", shard=shard, events=intake.quarantined)
        return intake

    def _read_ahead(self, shard: int, deadline: float) -> Iterator[Read]:
        """The batches of a shard until it is empty or the time is up.

        Where a backlog waits, the next one is made ready while PostgreSQL is busy with the one in hand. Otherwise the
        events that arrive meanwhile had better become one batch.
        """
        with ThreadPoolExecutor(1, "usage-read") as reader:
            read_next = partial(reader.submit, next, self._reads(shard), None)
            upcoming = read_next()
            while read := upcoming.result():
                ahead = read_next() if read.fill >= _FULL and time.monotonic() < deadline else None
                yield read
                if not ahead and time.monotonic() >= deadline:
                    return
                upcoming = ahead or read_next()

    def _reads(self, shard: int) -> Iterator[Read]:
        """First what a vanished worker left behind, then what is new."""
        count, cursor = _FIRST_READ, "0-0"
        while True:
            cursor, raw = self._stream.reclaim(shard, self._consumer, count, self._settings.reclaim_idle, cursor)
            if raw:
                yield (read := self._read(shard, raw))
                count = self._next_count(read)
            if cursor == "0-0":
                break
        wait = 0.0
        while raw := self._stream.read(shard, self._consumer, count, wait):
            yield (read := self._read(shard, raw))
            count = self._next_count(read)
            wait = _LINGER if sum(entry.declared for entry in raw) >= _BUSY else 0.0

    def _read(self, shard: int, raw: list[RawEntry]) -> Read:
        stream = self._stream.key(shard)
        window = Window.around(datetime.now(UTC), self._settings.accept_window)
        batch = batch_of([decode(stream, entry, window) for entry in raw])
        events = sum(entry.declared for entry in raw)
        size = sum(len(entry.fields.get(b"events", b"")) for entry in raw)
        return Read(batch, max(events / self._settings.batch_events, size / self._settings.batch_bytes))

    def _next_count(self, read: Read) -> int:
        """How many entries like these make a batch."""
        entries = len(read.batch.entries)
        return max(1, min(int(entries / read.fill), self._settings.batch_events)) if read.fill else _FIRST_READ
