"""The flush: read a shard, count and acknowledge what was read, until its turn is over."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from usage_worker.errors import StreamRefusedError, StreamUnavailableError, first_line
from usage_worker.events.refusals import Refusal
from usage_worker.ingest.apply import Applier
from usage_worker.ingest.batch_size import BatchSize
from usage_worker.ingest.clock import DatabaseClock
from usage_worker.ingest.namespace import Namespace
from usage_worker.ingest.prices import Prices
from usage_worker.ingest.reading import ShardReader
from usage_worker.ingest.turn import Turn
from usage_worker.logs import get_logger
from usage_worker.printable import printable
from usage_worker.queue.claim import FlushClaim
from usage_worker.queue.flush_counters import quarantined
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.holding import Holding
from usage_worker.store.intake import Intake
from usage_worker.tracing import in_span, messaging_attributes

if TYPE_CHECKING:
    from usage_worker.ingest.batch import Batch
    from usage_worker.queue.stream import EventStream
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

log = get_logger("ingest")

# A flush that is so late probably hangs: it no longer keeps others from its shard.
_HUNG_SECONDS = 60.0


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


class Flusher:
    """Flushes shards as one consumer of the group, in a process of the worker `node`, if of any."""

    def __init__(self, stream: EventStream, store: Store, settings: Settings, consumer: str, node: str = "") -> None:
        self._stream = stream
        self._claim = FlushClaim(stream.connection, consumer)
        self._records = FlushRecords(stream.connection, node)
        self._store = store
        self._prices = Prices(settings.prices)
        self._namespace = Namespace(store, settings.id_namespace)
        self._settings = settings
        self._size = BatchSize(settings.batch_events)
        self._applier = Applier(store, self._prices, settings)
        # A pool of threads executes the flushes of several shards: their batches take turns.
        self._counting = Lock()
        self._holding = Holding(stream.connection, consumer, settings.reclaim_idle)

    @property
    def intake(self) -> Intake:
        """What all its transactions have committed, also those of a flush that failed afterwards."""
        return self._applier.intake

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
            report = self._flush_recorded(shard, turn or Turn(self._settings.flush_budget))
        except BaseException:
            with suppress(StreamUnavailableError):
                self._claim.release(shard)
            raise
        with suppress(StreamUnavailableError):
            if shard < self._stream.shards or report.batches:
                return replace(report, successor=self._claim.hand_over(shard))
            # Beyond the number of shards, the chain ends with the entries, and the heartbeat begins another one.
            self._claim.release(shard)
        return report

    def flush(self, shard: int, budget: float | None = None) -> FlushReport:
        """Count the entries of a shard until it is empty or `budget` seconds (default: `USAGE_FLUSH_BUDGET`) are spent.

        Raises:
            StoreUnavailableError, StreamUnavailableError, ConcurrencyError: what was read stays in the stream and is
                reclaimed later.
            ClockError: this machine's clock is wrong; what was read stays in the stream.
            NamespaceError: the database has ids of another namespace.
            ForgetKeyError: users were erased with another key, and a pair of the batch has no row.
        """
        return self._flush_recorded(shard, Turn(self._settings.flush_budget if budget is None else budget))

    def _flush_recorded(self, shard: int, turn: Turn) -> FlushReport:
        try:
            with ExitStack() as spans:
                return self._flush(shard, turn, spans)
        except Exception as error:
            tally = self._applier.tally
            tally.failed(error)
            if isinstance(error, StreamUnavailableError) and not isinstance(error, StreamRefusedError):
                self._records.owe(shard, tally.take())  # a Redis that does not answer has nowhere to record it
            else:
                self._records.failed(shard, printable(first_line(error)), tally.take())
            raise

    def _flush(self, shard: int, turn: Turn, spans: ExitStack) -> FlushReport:
        batches, intake = 0, Intake()
        self._stream.watch(shard)
        # Before anything is read: without the database, an entry that was read would only wait to be reclaimed.
        clock = DatabaseClock(self._store)
        if self._settings.takes_any_id:
            self._namespace.keep()
        reader = ShardReader(self._stream, shard, self._holding, clock, self._size, self._prices, self._settings)
        with self._holding.during(shard, self._claim.renewal(shard, turn.deadline + _HUNG_SECONDS)):
            for batch in reader.batches(turn):
                if not batches:  # an idle shard has a flush every two seconds, which nobody wants to see
                    attributes = messaging_attributes("flush", "process", self._stream.key(shard), shard)
                    spans.enter_context(in_span("usage.flush", "CONSUMER", attributes))
                with self._counting:
                    intake += self._count(shard, batch)
                batches += 1
        now = time.monotonic()
        report = FlushReport(shard, batches, intake, now - turn.began, cut_short=now >= turn.deadline)
        if batches:
            log.info("flushed", **report.as_dict())
        # Not for each batch: calm traffic makes up to twenty a second.
        if intake.quarantined:
            log.warning("quarantined", shard=shard, events=intake.quarantined)
        self._stream.leave(shard)
        self._records.succeeded(shard)
        return report

    def _count(self, shard: int, batch: Batch) -> Intake:
        began, self._applier.locked_seconds = time.monotonic(), 0.0
        if any(entry.made for entry in batch.entries):
            self._namespace.keep()
        try:
            intake = self._applier.apply(batch)
            if intake.accepted:
                self._size.counted(len(batch.events), time.monotonic() - began, self._applier.locked_seconds)
        finally:
            # Only after the commit may the entries leave Redis; a batch that was halved may be counted in part.
            if counted := [entry for entry in batch.entries if entry.is_counted]:
                ages = self._stream.done(shard, [entry.entry_id for entry in counted])
                self._applier.tally.visible(ages)
                self._holding.survived(shard, [entry.entry_id for entry in counted if entry.raw.deaths])
        increments = self._applier.tally.take()
        # Those of erased users are refused as their erasure demands, and are nobody's mistake.
        mistaken = intake.quarantined - increments[quarantined(Refusal.FORGOTTEN.kind)]
        self._records.counted(shard, intake.accepted, mistaken, increments)
        if any(entry.waiting for entry in batch.entries):
            self._records.waiting(shard, self._applier.held.holders)
        return intake
