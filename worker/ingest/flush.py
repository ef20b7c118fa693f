"""The flush: read a shard, count what was read, let go of it, until nothing is left or the time is up."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from worker.errors import StreamUnavailableError
from worker.events import Window
from worker.ingest.apply import Applier
from worker.ingest.entries import decode
from worker.logs import get_logger
from worker.store import Intake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.settings import Settings
    from worker.store import Store
    from worker.stream import EventStream, RawEntry

log = get_logger("ingest")

# The first read of a flush, before anything is known about the size of the entries.
_FIRST_READ = 10
# After a batch of so many events more are on their way: seconds to wait for them instead of leaving them to the next
# tick, while a processor stands idle.
_BUSY = 1_000
_LINGER = 0.1


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What one flush did; `seconds` is wall time, `cut_short` says that its time budget was spent before the end."""

    shard: int
    batches: int = 0
    intake: Intake = field(default_factory=Intake)
    seconds: float = 0.0
    cut_short: bool = False

    def as_dict(self) -> dict[str, Any]:
        figures = asdict(self)
        del figures["intake"]
        return figures | self.intake._asdict() | {"seconds": round(self.seconds, 3)}


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
        started = time.monotonic()
        deadline = started + (self._settings.flush_budget if budget is None else budget)
        batches, intake, cut_short = 0, Intake(), False
        # Asked before anything is read: with the database away, entries had better stay where they are.
        self._store.ping()
        for batch in self._batches(shard):
            intake += self._count(shard, batch)
            batches += 1
            if renew:
                self._stream.claim(shard, self._consumer)
            if cut_short := time.monotonic() >= deadline:
                break
        report = FlushReport(shard, batches, intake, time.monotonic() - started, cut_short)
        if batches:
            log.info("flushed", **report.as_dict())
        return report

    def _count(self, shard: int, batch: list[RawEntry]) -> Intake:
        stream = self._stream.key(shard)
        window = Window.around(datetime.now(UTC), self._settings.accept_window)
        entries = [decode(stream, raw, window) for raw in batch]
        intake = self._applier.apply(entries)
        # Only now, when they are committed, may the entries leave Redis.
        self._stream.done(shard, [raw.entry_id for raw in batch])
        if intake.quarantined:
            log.warning("quarantined", shard=shard, events=intake.quarantined)
        return intake

    def _batches(self, shard: int) -> Iterator[list[RawEntry]]:
        """First what a vanished worker left behind, then what is new."""
        count, cursor = _FIRST_READ, "0-0"
        while True:
            cursor, batch = self._stream.reclaim(shard, self._consumer, count, self._settings.reclaim_idle, cursor)
            if batch:
                yield batch
                count = self._next_count(batch)
            if cursor == "0-0":
                break
        wait = 0.0
        while batch := self._stream.read(shard, self._consumer, count, wait):
            yield batch
            count = self._next_count(batch)
            wait = _LINGER if sum(raw.declared for raw in batch) >= _BUSY else 0.0

    def _next_count(self, batch: list[RawEntry]) -> int:
        """How many entries like these make a batch, by events and by bytes."""
        events = sum(raw.declared for raw in batch)
        size = sum(len(raw.fields.get(b"events", b"")) for raw in batch)
        fill = max(events / self._settings.batch_events, size / self._settings.batch_bytes)
        return max(1, min(int(len(batch) / fill), self._settings.batch_events)) if fill else _FIRST_READ
