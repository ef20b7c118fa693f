"""Count one batch in one transaction, exactly once.

When anything fails, the whole transaction is rolled back and the entries stay in the stream; what is tried twice is
counted once, by the ledger's primary key.
"""

from __future__ import annotations

import random
import time
from itertools import starmap
from typing import TYPE_CHECKING, Literal

from usage_worker.errors import (
    ConcurrencyError,
    DataRefusedError,
    DuplicateError,
    LockHeldError,
    OutOfRangeError,
    ReferenceMissingError,
    StatementCancelledError,
)
from usage_worker.ingest.batch import batch_of
from usage_worker.ingest.batch_limit import BatchLimit
from usage_worker.ingest.copy_lines import ledger_line, totals_line
from usage_worker.ingest.deliveries import register
from usage_worker.ingest.entries import describe
from usage_worker.ingest.first_times import take_first_times
from usage_worker.ingest.fold import fold
from usage_worker.ingest.held_rows import HeldRows
from usage_worker.ingest.pessimism import PessimisticMode
from usage_worker.ingest.refused import letters_of, others_of
from usage_worker.logs import get_logger
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.store import OUTAGES, Intake, batch_transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.events.event import Pair, Record
    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.fold import Folded
    from usage_worker.ingest.refused import Refused
    from usage_worker.store import BatchTransaction, EventIdentity, Missing, Store

Unknown = Literal["quarantine", "create"]

log = get_logger("ingest")

MAX_ATTEMPTS = 8


class Applier:
    """Counts batches, one transaction each."""

    def __init__(self, store: Store, unknown: Unknown) -> None:
        self._store = store
        self._unknown = unknown
        self._duplicates = PessimisticMode()
        self._missing = PessimisticMode()
        self._full = PessimisticMode()
        self._rivals = PessimisticMode()
        self.held = HeldRows()
        self._limit = BatchLimit()
        self._last_attempt = self._is_alone = False

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
                with batch_transaction(self._store) as transaction:
                    intake = self._count(transaction, batch)
            except LockHeldError as error:
                self.held.mode.trip()
                if self._last_attempt:
                    raise LockHeldError(f"{error.detail}, {self._store.lock_holders()}") from error
            except ConcurrencyError as error:
                if self._last_attempt:
                    raise
                if isinstance(error, DuplicateError):
                    self._duplicates.trip()
                    self._rivals.trip()
                # Jitter, so that two workers that conflicted do not conflict again.
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311
            else:
                self._limit.succeeded()
                for entry in batch.entries:
                    entry.is_counted = not entry.waiting
                return intake
        raise AssertionError("unreachable")

    def _count(self, transaction: BatchTransaction, batch: Batch) -> Intake:
        self._is_alone = len(batch.entries) == 1
        for entry in batch.entries:
            entry.waiting = []  # of an attempt that was rolled back
        stream = batch.entries[0].stream
        entries, first_seen, seen, waited = register(transaction, batch.entries)
        untimed = [entry for entry in entries if entry.untimed]
        repeated = take_first_times(transaction, untimed)
        known: set[EventIdentity] = set()
        if self._duplicates or seen or repeated:
            known = transaction.known({record[:2] for entry in entries for record in entry.records})
        if known or seen or untimed or entries is not batch.entries:
            batch = batch_of(entries, first_seen, known)
        if batch.duplicate:
            self._duplicates.trip()
        refused: Refused = {}
        others_refused: Refused = {}
        with self.held.begin(transaction):
            free = self.held.free(transaction, batch.records)
            self._count_records(transaction, free, batch.days if free is batch.records else None, refused)
            # While rows are held, an event that waits is found again by its identity alone.
            others = others_of(batch, first_seen, refused) if batch.duplicate and not self.held.mode else []
            self._count_records(transaction, others, None, others_refused)
        quarantined = transaction.quarantine(letters_of(entries, refused))
        self.held.note(transaction, entries, waited)
        counted_others = len(others) - len(others_refused)
        applied = len(batch.records) - len(refused) - len(self.held.events) + counted_others
        duplicate = batch.duplicate - counted_others
        intake = Intake(applied + duplicate + quarantined, applied, duplicate, quarantined)
        transaction.add_intake(stream, intake)
        return intake

    def _count_records(
        self,
        transaction: BatchTransaction,
        records: list[Record],
        days: Folded | None,
        refused: Refused,
        *,
        again: bool = False,
    ) -> None:
        """Count the records; find those that cannot be counted by halving, and refuse only them.

        A record that failed without a refusal by PostgreSQL is tried twice: the cause may have been something else.
        """
        if not records:
            return
        try:
            with transaction.savepoint():
                self._write(transaction, records, fold(records) if days is None else days)
        except _RefusedPairsError as error:
            known = [record for record in records if (record.user_id, record.agent_id) not in error.reasons]
            for record in records:
                if reason := error.reasons.get((record.user_id, record.agent_id)):
                    refused[record[:2]] = reason
            self._count_records(transaction, known, None, refused)
        except LockHeldError:
            if not self.held.mode:
                raise
            self._count_parts(transaction, self.held.parts(records), refused)
        except Exception as error:
            if self._is_outage(error, records):
                raise
            self._narrow_down(transaction, records, days, refused, error, again=again)

    def _narrow_down(
        self,
        transaction: BatchTransaction,
        records: list[Record],
        days: Folded | None,
        refused: Refused,
        error: Exception,
        *,
        again: bool,
    ) -> None:
        """Count again in a way that finds the record that failed; refuse it if it is the only one."""
        if isinstance(error, OutOfRangeError) and not self._full:
            # One look finds the pair; halving refuses single events of it, and applies a batch of 20,000 15 times.
            self._full.trip()
            self._count_records(transaction, records, days, refused, again=again)
            return
        middle = len(records) // 2
        if middle:
            self._count_parts(transaction, [records[:middle], records[middle:]], refused)
        elif again or isinstance(error, DataRefusedError):
            refused[records[0][:2]] = describe(error)
        else:
            self._count_records(transaction, records, None, refused, again=True)

    def _count_parts(self, transaction: BatchTransaction, parts: list[list[Record]], refused: Refused) -> None:
        for part in parts:
            self._count_records(transaction, part, None, refused)

    def _is_outage(self, error: Exception, records: list[Record]) -> bool:
        """Return whether the same records may be counted later, unchanged."""
        if isinstance(error, ReferenceMissingError) and self._last_attempt:
            return False  # no race is lost so often: a foreign key of the application, which the event violates
        if isinstance(error, StatementCancelledError) and self._is_alone and len(records) > 1:
            return False  # an entry that is alone in its batch: its events may be counted in parts, each in less time
        return isinstance(error, OUTAGES)

    def _write(self, transaction: BatchTransaction, records: list[Record], days: Folded) -> None:
        if self._rivals or len(days) > 1:
            # Locked day by day, the rows of all days together would not be in key order. And when another batch inserts
            # conversations of the same pairs, the known ones must be read after its commit.
            transaction.lock_pairs({pair for totals in days.values() for pair in totals})
        for day, totals in days.items():
            transaction.stage(day, starmap(totals_line, totals.items()))
            if self._missing and (missing := transaction.missing_pairs()):
                self._missing.trip()
                _resolve(transaction, missing, self._unknown)
            if self._full and (full := transaction.full_counters()):
                self._full.trip()
                raise _RefusedPairsError(
                    {(it.user_id, it.agent_id): f"{it.counter}: this pair's would exceed {it.most}" for it in full}
                )
            if transaction.apply_staged(day) != len(totals):
                self._missing.trip()
                raise ConcurrencyError("pairs have no row in user_agents, not yet or no longer")
        transaction.write_ledger(map(ledger_line, records))


class _RefusedPairsError(Exception):
    """Pairs that cannot be counted, with the reasons."""

    def __init__(self, reasons: dict[Pair, str]) -> None:
        super().__init__()
        self.reasons = reasons


def _resolve(transaction: BatchTransaction, missing: list[Missing], unknown: Unknown) -> None:
    """Insert the missing rows.

    Raises:
        _RefusedPairsError: the user or agent of some does not exist, and unknown pairs are quarantined.
        SettingsError: unknown pairs are to be created, and this role may not do so.
    """
    absent = [row for row in missing if not (row.user_exists and row.agent_exists)]
    if absent and unknown == "quarantine":
        raise _RefusedPairsError(
            {
                (row.user_id, row.agent_id): "agent_id: no such agent" if row.user_exists else "user_id: no such user"
                for row in absent
            }
        )
    if absent:
        transaction.create_parents(
            {row.user_id for row in absent if not row.user_exists},
            {row.agent_id for row in absent if not row.agent_exists},
        )
    transaction.insert_pairs([(row.user_id, row.agent_id) for row in missing])
