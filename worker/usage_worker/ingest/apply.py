"""Count one batch in one transaction, exactly once.

When anything fails, the whole transaction is rolled back and the entries stay in the stream; what is tried twice is
counted once, by the ledger's primary key.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from usage_worker.errors import (
    ConcurrencyError,
    DataRefusedError,
    DuplicateError,
    LockHeldError,
    PartitionMissingError,
    StaleSessionError,
    StatementCancelledError,
)
from usage_worker.events.refusals import Refusal
from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.batch_limit import BatchLimit
from usage_worker.ingest.bisection import Bisection
from usage_worker.ingest.copy_rows import ledger_rows, totals_rows
from usage_worker.ingest.deliveries import known_events, register
from usage_worker.ingest.entries import describe
from usage_worker.ingest.event_array import TextTable, hours_of, pairs_of, time_texts
from usage_worker.ingest.first_times import take_first_times
from usage_worker.ingest.flush_tally import FlushTally
from usage_worker.ingest.forgotten import Forgotten
from usage_worker.ingest.held_rows import HeldRows
from usage_worker.ingest.ledger_days import LedgerDays
from usage_worker.ingest.made_ids import keep_ids
from usage_worker.ingest.missing_pairs import RefusedPairsError, resolve
from usage_worker.ingest.new_agents import AbsentAgentsError, NewAgents
from usage_worker.ingest.pessimism import PessimisticMode
from usage_worker.ingest.refused import letters_of
from usage_worker.ingest.transaction_span import intake_attributes, transaction_span
from usage_worker.logs import get_logger
from usage_worker.postgres import OUTAGES
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.store.batch import batch_transaction
from usage_worker.store.intake import Intake
from usage_worker.tracing import note_figures

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    import numpy as np

    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.deliveries import Deliveries
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.event_array import Chosen, Events
    from usage_worker.ingest.fold import Totals
    from usage_worker.ingest.prices import Prices
    from usage_worker.settings import Settings
    from usage_worker.store.batch import BatchTransaction
    from usage_worker.store.connection import Store

log = get_logger("ingest")

MAX_ATTEMPTS = 8
# Events and totals whose rows are made at once: about a megabyte, which the processor caches.
_COPY_ROWS = 5_000
# A statement applies so many rows of totals: while it lasts, its snapshot delays pruning. To find them it reads all
# staged rows, so the number of statements is limited, too.
_APPLY_ROWS, _MOST_RANGES = 10_000, 20


class Applier:
    """Counts batches, one transaction each."""

    def __init__(self, store: Store, prices: Prices, settings: Settings) -> None:
        self._store = store
        self._prices = prices
        self._unknown = settings.unknown
        self._days = LedgerDays(store, settings.accept_days)
        self.held = HeldRows()
        self._agents = NewAgents(store, self.held)
        self._forgotten = Forgotten.of(settings)
        # Of the transactions that were committed: their intake, and for how long they kept rows locked.
        self.intake = Intake()
        self.locked_seconds = 0.0
        self._duplicates = PessimisticMode()
        self._missing = PessimisticMode()
        self._full = PessimisticMode()
        self._rivals = PessimisticMode()
        self.tally = FlushTally()
        self._limit = BatchLimit()
        self._last_attempt = self._has_new_session = False
        self._texts = TextTable()

    def apply(self, batch: Batch, *, again: bool = False) -> Intake:
        """Count a batch that was built as if nothing in it had been delivered before.

        An entry that makes the transaction fail, although each of its events could be refused by itself, is found by
        halving the batch; when it fails twice alone, it is quarantined whole.

        Raises:
            ConcurrencyError: the transaction lost `MAX_ATTEMPTS` races; try the batch again later.
            StoreUnavailableError: nothing is known to be committed; try the batch again later.
        """
        if len(batch.entries) > self._limit.entries:
            return self._halves(batch.entries)
        try:
            return self._attempt(batch)
        except StatementCancelledError as error:
            self._limit.cancelled(len(batch.entries))
            if len(batch.entries) == 1:
                raise
            log.warning("a batch took too long", entries=len(batch.entries), reason=printable(str(error)))
            return self._halves(batch.entries)
        except OUTAGES:
            raise
        except Exception as error:  # noqa: BLE001 - one entry must not stop its shard, whatever it is
            entries, reason = batch.entries, describe(error)
            log.warning("a batch failed", entries=len(entries), reason=printable(reason, REASON_LENGTH))
            if len(entries) > 1:
                return self._halves(entries)
            if not again:
                return self.apply(batch_of(entries), again=True)
            entries[0].refuse_all(reason)
            return self._attempt(batch_of(entries))

    def _halves(self, entries: Sequence[DecodedEntry]) -> Intake:
        """Count each half of a batch; an entry that alone takes too long does not keep the others."""
        middle = len(entries) // 2
        intake, failure = Intake(), None
        for half in (entries[:middle], entries[middle:]):
            try:
                intake += self.apply(batch_of(half))
            except StatementCancelledError as error:
                if self._limit.is_hopeless:
                    raise
                failure = error
        if failure:
            raise failure
        return intake

    def _attempt(self, batch: Batch) -> Intake:
        """Count a batch in one transaction; repeat it when it loses a race."""
        for mode in (self._duplicates, self._missing, self._full, self._rivals, self.held.mode):
            mode.decay()
        self._has_new_session = False
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self._last_attempt = attempt == MAX_ATTEMPTS
            try:
                batch = self._admitted(batch)
                self._agents.prepare(batch)
                return self._transact(batch) if batch.entries else Intake()
            except LockHeldError as error:
                self.held.mode.trip()
                if self._last_attempt:
                    raise LockHeldError(f"{error.detail}, {self._store.lock_holders()}") from error
            except (AbsentAgentsError, StaleSessionError) as error:
                # At once: no race was lost.
                self._has_new_session |= isinstance(error, StaleSessionError)
            except ConcurrencyError as error:
                if self._last_attempt:
                    raise
                self._back_off(error, attempt)
        raise AssertionError("unreachable")

    def _admitted(self, batch: Batch) -> Batch:
        """Open the days of a batch; return it without the backfills that wait for others, and note for whom."""
        admitted = self._days.admit(batch)
        if left := len(batch.entries) - len(admitted.entries):
            self.held.holders = self._store.lock_holders()
            log.warning("backfills wait for a day of the ledger", entries=left, holders=self.held.holders)
        return admitted

    def _transact(self, batch: Batch) -> Intake:
        began = time.monotonic()
        with transaction_span(batch.entries) as span, batch_transaction(self._store) as transaction:
            intake, reasons = self._count(transaction, batch)
            note_figures(span, intake_attributes(intake))
        self.tally.committed(time.monotonic() - began, intake, reasons)
        self.intake += intake
        self.locked_seconds += transaction.locked_seconds
        self._limit.succeeded()
        for entry in batch.entries:
            entry.is_counted = not entry.waiting
        return intake

    def _back_off(self, error: ConcurrencyError, attempt: int) -> None:
        """Pause before the next attempt; it looks for duplicates first if there was one."""
        if isinstance(error, DuplicateError):
            self._duplicates.trip()
            self._rivals.trip()
        # Jitter, so that two workers that conflicted do not conflict again.
        time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter is no secret

    def _count(self, transaction: BatchTransaction, batch: Batch) -> tuple[Intake, Counter[str]]:
        """Count a batch; return its intake, and the events of its new dead letters by reason."""
        is_alone, self._texts = len(batch.entries) == 1, batch.texts
        for entry in batch.entries:
            entry.waiting = []  # of an attempt that was rolled back
        stream, has_backfill = batch.entries[0].stream, any(entry.raw.is_backfill for entry in batch.entries)
        deliveries = register(transaction, batch.entries)
        # An erased user has no pair any more.
        may_lack_pairs = bool(self._missing) or self._last_attempt
        deliveries = self._forgotten.taken_out(transaction, deliveries, may_lack_pairs=may_lack_pairs)
        # Also those of refused events; the name of an agent that is created is its external id.
        made = (external for entry in deliveries.entries for external in entry.made)
        free = (external for external in made if external.id.hex not in self._agents.being_inserted)
        waiting = keep_ids(transaction, free, self.held)
        self._agents.being_inserted.update(external.id.hex for external in waiting if external.kind == "agent")
        batch = self._without_known(transaction, batch, deliveries)
        bisection = Bisection(
            transaction, self._write, self.held, self._full, is_alone=is_alone, is_last=self._last_attempt
        )
        with self.held.begin(transaction):
            refused, counted_others = bisection.count_batch(batch)
        if not may_lack_pairs:
            self._require_known(transaction, [self.held.events, *(event for event, _ in refused)])
        letters = letters_of(deliveries.entries, refused)
        reasons = self._forgotten.quarantine(transaction, deliveries, letters, refused=len(refused))
        self.held.note(transaction, deliveries.entries, deliveries.waited)
        applied = len(batch.events) - len(refused) - len(self.held.events) + counted_others
        duplicate, quarantined = len(batch.duplicates) - counted_others, reasons.total()
        intake = Intake(applied + duplicate + quarantined, applied, duplicate, quarantined)
        transaction.add_intake(stream, intake, has_backfill=has_backfill)
        return intake, reasons

    def _without_known(self, transaction: BatchTransaction, batch: Batch, deliveries: Deliveries) -> Batch:
        """Return the batch without what was counted before, as far as the database is asked for it."""
        entries, first_seen, seen, _ = deliveries
        untimed = [entry for entry in entries if entry.events["is_untimed"].any()]
        repeated = take_first_times(transaction, untimed)
        if repeated:
            for entry in untimed:
                self._prices.fill(entry.events, entry.texts)  # at their first times
        known: Sequence[int] = ()
        if entries and (self._duplicates or self._last_attempt or seen or repeated):
            known = known_events(transaction, entries)
        if known or seen or untimed or entries is not batch.entries:
            batch = batch_of(entries, first_seen, known)
        if len(batch.duplicates):
            self._duplicates.trip()
        return batch

    def _write(self, transaction: BatchTransaction, events: Chosen, totals: Totals) -> None:
        # Opened before; again here, in case one was dropped since. Never old days: see LedgerDays.
        days = sorted(totals.days - self._days.opened_past)
        transaction.stage(days, map(totals_rows, totals.parts(_COPY_ROWS)))
        if (self._missing or self._last_attempt) and (missing := transaction.missing_pairs()):
            self._missing.trip()
            if self._unknown == "create":
                self._agents.require(missing, may_start_again=not self._last_attempt)
            resolve(transaction, missing, self._unknown)
        are_locked = bool(self._rivals) or self._last_attempt
        if are_locked:
            # Another batch inserts conversations of the same pairs, so that the known ones must be read after its
            # commit; or a purge deletes pairs.
            self._require_rows(transaction.lock_pairs(pairs_of(totals.pairs)), totals)
        if self._full and (full := transaction.full_counters()):
            self._full.trip()
            raise RefusedPairsError(
                {(it.user_id, it.agent_id): Refusal.FULL_COUNTER.of(it.counter, it.most) for it in full}
            )
        transaction.mark_hours(time_texts(hours_of(events["occurred_at"])))
        # The ledger first: it finds duplicates, and the rows of the counters are locked for a shorter time.
        self._write_ledger(transaction, events, totals)
        ranges = totals.user_ranges(max(_APPLY_ROWS, len(totals.rows) // _MOST_RANGES))
        self._require_rows(transaction.apply_staged(ranges), totals, are_locked=are_locked)

    def _write_ledger(self, transaction: BatchTransaction, events: Chosen, totals: Totals) -> None:
        chunks = (events[start : start + _COPY_ROWS] for start in range(0, len(events), _COPY_ROWS))
        rows = (ledger_rows(chunk.copied(), self._texts, self._prices.source) for chunk in chunks)
        try:
            transaction.write_ledger(rows, len(events))
        except PartitionMissingError as error:
            # It was made before this transaction. One worker was once seen to refuse the events of a day that others
            # counted meanwhile. Where a new session does not see the partition either, somebody has detached it.
            if self._has_new_session or self._last_attempt or totals.days & self._days.opened_past:
                raise
            raise StaleSessionError(error.detail) from error

    def _require_known(self, transaction: BatchTransaction, uncounted: Sequence[Events | np.void]) -> None:
        """Start again where events that are not counted, so that nobody missed their pairs, are of erased users."""
        if any(events.size for events in uncounted) and self._forgotten.among(transaction, uncounted):
            self._missing.trip()
            raise ConcurrencyError("events of erased users wait or are refused")

    def _require_rows(self, rows: int, totals: Totals, *, are_locked: bool = False) -> None:
        """Start again unless each pair has a row: the next attempt inserts missing ones before it locks any."""
        if rows != totals.pair_count:
            if are_locked or self._last_attempt:
                # Rows that are locked are not deleted, and the last attempt has just inserted what was missing: halving
                # finds the pair.
                raise DataRefusedError("a trigger keeps the row of its pair in user_agents from being written")
            if self._missing:
                # Rows were deleted since the look: the next attempt locks them before it counts.
                self._rivals.trip()
            self._missing.trip()
            raise ConcurrencyError("pairs have no row in user_agents, not yet or no longer")
