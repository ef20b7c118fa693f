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
    OutOfRangeError,
    ReferenceMissingError,
    StatementCancelledError,
)
from usage_worker.events.refusals import Refusal
from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.batch_limit import BatchLimit
from usage_worker.ingest.copy_rows import ledger_rows, totals_rows
from usage_worker.ingest.deliveries import known_events, register
from usage_worker.ingest.entries import describe
from usage_worker.ingest.event_array import TextTable, are_in, hours_of, order_of, pairs_of, time_texts
from usage_worker.ingest.first_times import take_first_times
from usage_worker.ingest.flush_tally import FlushTally
from usage_worker.ingest.fold import fold
from usage_worker.ingest.forgotten import Forgotten
from usage_worker.ingest.held_rows import HeldRows
from usage_worker.ingest.ledger_days import LedgerDays
from usage_worker.ingest.made_ids import keep_ids
from usage_worker.ingest.missing_pairs import RefusedPairsError, resolve
from usage_worker.ingest.new_agents import AbsentAgentsError, NewAgents
from usage_worker.ingest.pessimism import PessimisticMode
from usage_worker.ingest.refused import letters_of, others_of
from usage_worker.ingest.transaction_span import intake_attributes, transaction_span
from usage_worker.logs import get_logger
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.store import OUTAGES, Intake, batch_transaction
from usage_worker.tracing import note_figures

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.deliveries import Deliveries
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.event_array import Chosen
    from usage_worker.ingest.fold import Totals
    from usage_worker.ingest.prices import Prices
    from usage_worker.ingest.refused import Refused
    from usage_worker.settings import Settings
    from usage_worker.store import BatchTransaction, Store

log = get_logger("ingest")

MAX_ATTEMPTS = 8
# Events and totals whose rows are made at once: about a megabyte, which the processor caches.
_COPY_ROWS = 5_000


class Applier:
    """Counts batches, one transaction each."""

    def __init__(self, store: Store, prices: Prices, settings: Settings) -> None:
        self._store = store
        self._prices = prices
        self._unknown = settings.unknown
        self._days = LedgerDays(store, settings.accept_days)
        self._agents = NewAgents(store)
        self._forgotten = Forgotten.of(settings)
        # For how long the transactions that were committed kept rows locked.
        self.locked_seconds = 0.0
        self._duplicates = PessimisticMode()
        self._missing = PessimisticMode()
        self._full = PessimisticMode()
        self._rivals = PessimisticMode()
        self.held = HeldRows()
        self.tally = FlushTally()
        self._limit = BatchLimit()
        self._last_attempt = self._is_alone = False
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
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self._last_attempt = attempt == MAX_ATTEMPTS
            try:
                batch = self._days.admit(batch)
                self._agents.prepare(batch)
                began = time.monotonic()
                with transaction_span(batch.entries) as span, batch_transaction(self._store) as transaction:
                    intake, reasons = self._count(transaction, batch)
                    note_figures(span, intake_attributes(intake))
            except LockHeldError as error:
                self.held.mode.trip()
                if self._last_attempt:
                    raise LockHeldError(f"{error.detail}, {self._store.lock_holders()}") from error
            except AbsentAgentsError:
                continue  # no race was lost
            except ConcurrencyError as error:
                if self._last_attempt:
                    raise
                self._race_lost(error, attempt)
            else:
                self.tally.committed(time.monotonic() - began, intake, reasons)
                self.locked_seconds += transaction.locked_seconds
                self._limit.succeeded()
                for entry in batch.entries:
                    entry.is_counted = not entry.waiting
                return intake
        raise AssertionError("unreachable")

    def _race_lost(self, error: ConcurrencyError, attempt: int) -> None:
        if isinstance(error, DuplicateError):
            self._duplicates.trip()
            self._rivals.trip()
        # Jitter, so that two workers that conflicted do not conflict again.
        time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter is no secret

    def _count(self, transaction: BatchTransaction, batch: Batch) -> tuple[Intake, Counter[str]]:
        """Count a batch; return its intake, and the events of its new dead letters by reason."""
        self._is_alone, self._texts = len(batch.entries) == 1, batch.texts
        for entry in batch.entries:
            entry.waiting = []  # of an attempt that was rolled back
        stream, has_backfill = batch.entries[0].stream, any(entry.raw.is_backfill for entry in batch.entries)
        deliveries = register(transaction, batch.entries)
        # An erased user has no pair any more.
        deliveries = self._forgotten.taken_out(transaction, deliveries, may_lack_pairs=bool(self._missing))
        # Also those of refused events; an agent that is created gets its own as its name.
        keep_ids(transaction, (external for entry in deliveries.entries for external in entry.made))
        batch = self._without_known(transaction, batch, deliveries)
        refused: Refused = []
        counted_others = 0
        with self.held.begin(transaction):
            free = self.held.free(transaction, batch.events)
            self._count_events(transaction, free, batch.totals if free is batch.events else None, refused)
            for others, others_refused in others_of(batch, refused):
                self._count_events(transaction, others, None, others_refused)
                counted_others += len(others) - len(others_refused)
        letters = letters_of(deliveries.entries, refused)
        reasons = self._forgotten.quarantine(transaction, deliveries, letters, has_refused=bool(refused))
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
        if entries and (self._duplicates or seen or repeated):
            known = known_events(transaction, entries)
        if known or seen or untimed or entries is not batch.entries:
            batch = batch_of(entries, first_seen, known)
        if len(batch.duplicates):
            self._duplicates.trip()
        return batch

    def _count_events(
        self,
        transaction: BatchTransaction,
        events: Chosen,
        totals: Totals | None,
        refused: Refused,
        *,
        again: bool = False,
    ) -> None:
        """Count the events; find those that cannot be counted by halving, and refuse only them.

        An event that failed without a refusal by PostgreSQL is tried twice: the cause may have been something else.
        """
        if not len(events):
            return
        try:
            with transaction.savepoint():
                self._write(transaction, events, fold(events) if totals is None else totals)
        except RefusedPairsError as error:
            pairs = pairs_of(events)
            is_refused = are_in(pairs, error.reasons)
            refused += [(events[place], error.reasons[pairs[place]]) for place in is_refused.nonzero()[0].tolist()]
            self._count_events(transaction, events[~is_refused], None, refused)
        except LockHeldError:
            if not self.held.mode:
                raise
            self._count_parts(transaction, self.held.parts(events), refused)
        except Exception as error:
            if self._is_outage(error, events):
                raise
            self._narrow_down(transaction, events, totals, refused, error, again=again)

    def _narrow_down(
        self,
        transaction: BatchTransaction,
        events: Chosen,
        totals: Totals | None,
        refused: Refused,
        error: Exception,
        *,
        again: bool,
    ) -> None:
        """Count again in a way that finds the event that failed; refuse it if it is the only one."""
        if isinstance(error, OutOfRangeError) and not self._full:
            # One look finds the pair; halving refuses single events of it, and applies a batch of 20,000 15 times.
            self._full.trip()
            self._count_events(transaction, events, totals, refused, again=again)
            return
        if middle := len(events) // 2:
            # By pair, no longer by identity: one half after the other locks rows in key order. Two batches with common
            # events may then deadlock in the ledger, and retry; a client that locks rows may not know how to.
            events = events[order_of(events["user_id"], events["agent_id"])]
            self._count_parts(transaction, [events[:middle], events[middle:]], refused)
        elif again or isinstance(error, DataRefusedError):
            refused.append((events[0], describe(error)))
        else:
            self._count_events(transaction, events, None, refused, again=True)

    def _count_parts(self, transaction: BatchTransaction, parts: list[Chosen], refused: Refused) -> None:
        for part in parts:
            self._count_events(transaction, part, None, refused)

    def _is_outage(self, error: Exception, events: Chosen) -> bool:
        """Return whether the same events may be counted later, unchanged."""
        if isinstance(error, ReferenceMissingError) and self._last_attempt:
            return False  # no race is lost so often: a foreign key of the application, which the event violates
        if isinstance(error, StatementCancelledError) and self._is_alone and len(events) > 1:
            return False  # an entry that is alone in its batch: its events may be counted in parts, each in less time
        return isinstance(error, OUTAGES)

    def _write(self, transaction: BatchTransaction, events: Chosen, totals: Totals) -> None:
        # Opened before; again here, in case one was dropped since. Never old days: see LedgerDays.
        days = sorted(totals.days - self._days.opened_past)
        transaction.stage(days, map(totals_rows, totals.parts(_COPY_ROWS)))
        if self._missing and (missing := transaction.missing_pairs()):
            self._missing.trip()
            if self._unknown == "create" and not self._last_attempt:
                self._agents.require(missing)
            resolve(transaction, missing, self._unknown)
        if self._rivals:
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
        chunks = (events[start : start + _COPY_ROWS] for start in range(0, len(events), _COPY_ROWS))
        transaction.write_ledger(ledger_rows(chunk.copied(), self._texts, self._prices.source) for chunk in chunks)
        self._require_rows(transaction.apply_staged(), totals)

    def _require_rows(self, rows: int, totals: Totals) -> None:
        """Start again unless each pair has a row: the next attempt inserts missing ones before it locks any."""
        if rows != len(totals.pairs):
            if self._missing:
                # Rows were deleted since the look: the next attempt locks them before it counts.
                self._rivals.trip()
            self._missing.trip()
            raise ConcurrencyError("pairs have no row in user_agents, not yet or no longer")
