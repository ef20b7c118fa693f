"""The events of a transaction that cannot be counted, found by halving, so that all others are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import (
    DataRefusedError,
    DuplicateError,
    LockHeldError,
    OutOfRangeError,
    ReferenceMissingError,
    StatementCancelledError,
)
from usage_worker.ingest.entries import describe
from usage_worker.ingest.event_array import are_in, order_of, pairs_of
from usage_worker.ingest.fold import fold
from usage_worker.ingest.missing_pairs import RefusedPairsError
from usage_worker.ingest.refused import others_of
from usage_worker.postgres import OUTAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.event_array import Chosen
    from usage_worker.ingest.fold import Totals
    from usage_worker.ingest.held_rows import HeldRows
    from usage_worker.ingest.pessimism import PessimisticMode
    from usage_worker.ingest.refused import Refused
    from usage_worker.store.batch import BatchTransaction


class Bisection:
    """Counts the events of one transaction, each part in a savepoint; refuses those that cannot be counted.

    Args:
        transaction: the transaction.
        write: writes events and their totals, or raises.
        held: the rows that others hold, whose events wait.
        full: the mode in which `write` looks for full counters.
        is_alone: whether the batch has one entry.
        is_last: whether no attempt follows, so that a reference that is missing, or a value that is there twice, is an
            error of the data.
    """

    def __init__(
        self,
        transaction: BatchTransaction,
        write: Callable[[BatchTransaction, Chosen, Totals], None],
        held: HeldRows,
        full: PessimisticMode,
        *,
        is_alone: bool,
        is_last: bool,
    ) -> None:
        self._transaction, self._write = transaction, write
        self._held, self._full = held, full
        self._is_alone, self._is_last = is_alone, is_last

    def count_batch(self, batch: Batch) -> tuple[Refused, int]:
        """Count the events of a batch that nobody holds, then others with the identity of refused ones.

        Returns the refused events, and how many of the others were counted.
        """
        refused: Refused = []
        counted_others = 0
        free = self._held.free(self._transaction, batch.events)
        self._count(free, batch.totals if free is batch.events else None, refused)
        for others, others_refused in others_of(batch, refused):
            self._count(others, None, others_refused)
            counted_others += len(others) - len(others_refused)
        return refused, counted_others

    def _count(self, events: Chosen, totals: Totals | None, refused: Refused, *, again: bool = False) -> None:
        """Count the events; find those that cannot be counted by halving, and refuse only them.

        An event that failed without a refusal by PostgreSQL is tried twice: the cause may have been something else.
        """
        if not len(events):
            return
        try:
            with self._transaction.savepoint():
                self._write(self._transaction, events, fold(events) if totals is None else totals)
        except RefusedPairsError as error:
            pairs = pairs_of(events)
            is_refused = are_in(pairs, error.reasons)
            refused += [(events[place], error.reasons[pairs[place]]) for place in is_refused.nonzero()[0].tolist()]
            self._count(events[~is_refused], None, refused)
        except LockHeldError:
            if not self._held.mode:
                raise
            self._count_parts(self._held.parts(events), refused)
        except Exception as error:
            if self._is_outage(error, events):
                raise
            self._narrow_down(events, totals, refused, error, again=again)

    def _narrow_down(
        self,
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
            self._count(events, totals, refused, again=again)
            return
        if middle := len(events) // 2:
            # By pair, no longer by identity: one half after the other locks rows in key order. Two batches with common
            # events may then deadlock in the ledger, and retry; a client that locks rows may not know how to.
            events = events[order_of(events["user_id"], events["agent_id"])]
            self._count_parts([events[:middle], events[middle:]], refused)
        elif again or isinstance(error, DataRefusedError):
            refused.append((events[0], describe(error)))
        else:
            self._count(events, None, refused, again=True)

    def _count_parts(self, parts: list[Chosen], refused: Refused) -> None:
        for part in parts:
            self._count(part, None, refused)

    def _is_outage(self, error: Exception, events: Chosen) -> bool:
        """Return whether the same events may be counted later, unchanged."""
        if isinstance(error, ReferenceMissingError | DuplicateError) and self._is_last:
            return False  # no race is lost so often: a foreign key or unique key of the application is violated
        if isinstance(error, StatementCancelledError) and self._is_alone and len(events) > 1:
            return False  # an entry that is alone in its batch: its events may be counted in parts, each in less time
        return isinstance(error, OUTAGES)
