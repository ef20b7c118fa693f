"""The statements of the transaction that counts a batch; `usage_worker.ingest` decides on their order.

Rows are copied in PostgreSQL's binary format. Ids in parameters and results are texts of 32 hexadecimal digits.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from usage_worker.errors import ConcurrencyError, DataRefusedError, SettingsError, StatementCancelledError
from usage_worker.postgres import translated
from usage_worker.store.copy_binary import HEADER, TRAILER
from usage_worker.store.external_ids import keep_external_ids
from usage_worker.store.forgotten import forgotten_among
from usage_worker.store.holders import begin, holders
from usage_worker.store.needed_role import needed_role
from usage_worker.store.pair import FullCounter, Missing
from usage_worker.store.quarantine import quarantine
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

    from usage_worker.events.external_ids import ExternalId
    from usage_worker.events.tombstones import ForgetKey
    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store
    from usage_worker.store.intake import Intake
    from usage_worker.store.pair import Pair
    from usage_worker.store.quarantine import DeadLetter

# How long a transaction that looks for held rows waits for each lock, at most.
_SHORT_WAIT_MS = 100
# What `with_patience` allows. A worker that is stopped meanwhile keeps others waiting for as long.
_PATIENCE = "15min"
# Bytes sent at once: PostgreSQL then works on some while Python writes the next.
_CHUNK_BYTES = 2**18


def array(values: Iterable[str]) -> str:
    """Return an array of values, none of which needs quotes."""
    return "{" + ",".join(values) + "}"


def _pair_arrays(pairs: Iterable[Pair]) -> dict[str, str]:
    users, agents = zip(*pairs, strict=True)
    return {"users": array(users), "agents": array(agents)}


class BatchTransaction:
    """An open transaction of one batch."""

    def __init__(self, connection: Connection, store: Store) -> None:
        self._connection = connection
        self._store = store
        self._lock_timeout, self.time_limits = begin(connection)
        connection.execute(store.temporary(query("staging")))
        self._staged = False
        self._locked_at = math.inf

    @property
    def locked_seconds(self) -> float:
        """Seconds since the first statement that locks rows of pairs began; to be read right after the commit."""
        return max(time.monotonic() - self._locked_at, 0.0)

    def _note_lock(self) -> None:
        """Note that the next statement locks rows of pairs."""
        self._locked_at = min(self._locked_at, time.monotonic())

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Roll back to here when the block raises."""
        with translated(), self._connection.transaction():
            yield

    def register_entries(self, contents: Mapping[UUID, UUID], formers: Mapping[UUID, UUID | None]) -> set[UUID]:
        """Register stream entries, given their contents and former keys by key.

        Returns the keys of those that were not registered before, under neither key.
        """
        columns = {"contents": list(contents.values()), "formers": [formers.get(key) for key in contents]}
        registered = self._connection.execute(query("register_entries"), {"keys": list(contents), **columns})
        return {row[0] for row in registered}

    def entry_contents(self, keys: Iterable[UUID]) -> dict[UUID, UUID | None]:
        """Return the contents of registered entries; None for those of versions that did not note them."""
        return dict(self._connection.execute(query("entry_contents"), {"keys": list(keys)}).fetchall())

    def waiting_positions(self, keys: Iterable[UUID]) -> dict[UUID, set[int]]:
        """Return the entries of which some events wait, with their positions."""
        rows = self._connection.execute(query("waiting_positions"), {"keys": list(keys)})
        return {key: set(map(int, held_in.split(" ")[1].split(","))) for key, held_in in rows}

    def note_waiting(self, key: UUID, entry_id: str, positions: Collection[int]) -> None:
        """Note which events of an entry wait for its next delivery."""
        held_in = f"{entry_id} {','.join(map(str, positions))}" if positions else None
        self._connection.execute(query("note_waiting"), {"key": key, "held_in": held_in})

    def dead_letter_positions(self, keys: Iterable[UUID]) -> set[tuple[UUID, int]]:
        """Return the dead letters of these entries, by entry and position."""
        return set(self._connection.execute(query("dead_letter_positions"), {"keys": list(keys)}).fetchall())

    def first_times(self, times: Mapping[str, str]) -> dict[str, int]:
        """Keep the times of keys that have none yet; return those that the other keys have, in microseconds."""
        parameters = {"ids": array(times), "times": array(times.values())}
        kept = {row[0].hex for row in self._connection.execute(query("keep_first_times"), parameters)}
        others = times.keys() - kept
        if not others:
            return {}
        rows = self._connection.execute(query("first_times"), {"ids": array(others)})
        return {key.hex: microseconds for key, microseconds in rows}

    def known(self, ids: Sequence[str], times: Sequence[str]) -> list[int]:
        """Return the places of those of the events that the ledger has; `ids` and `times` have one value for each."""
        if not ids:
            return []
        parameters = {"ids": array(ids), "times": array(times), "oldest": min(times), "newest": max(times)}
        return [row[0] - 1 for row in self._connection.execute(query("known_events"), parameters)]

    def lock_pairs(self, pairs: Iterable[Pair]) -> int:
        """Lock the rows of these pairs, in key order: no other transaction counts or deletes them until the end.

        Returns the number of pairs that have a row.
        """
        self._note_lock()
        return self._connection.execute(query("lock_batch_pairs"), _pair_arrays(pairs)).rowcount

    def held_pairs(self, pairs: Iterable[Pair]) -> set[Pair]:
        """Return the pairs whose rows others hold, and lock the rows of the rest."""
        self._note_lock()
        held = self._connection.execute(query("held_pairs"), _pair_arrays(pairs))
        return {(user.hex, agent.hex) for user, agent in held}

    def check_tables(self) -> None:
        """Check that nobody holds a whole table.

        Raises:
            LockHeldError: somebody does.
        """
        with translated():
            self._connection.execute(query("ready"))

    def check_external_ids(self) -> None:
        """Check that nobody holds the whole table of external ids.

        Raises:
            LockHeldError: somebody does.
        """
        with translated():
            self._connection.execute(query("external_ids_ready"))

    def holders(self) -> str:
        """Describe who may hold the rows that the batch needs."""
        return holders(self._connection)

    @contextmanager
    def short_lock_waits(self) -> Iterator[None]:
        """Wait only for a moment for each lock during the block."""
        self._limit_lock_waits(min(self._lock_timeout, _SHORT_WAIT_MS))
        yield
        self._limit_lock_waits(self._lock_timeout)

    @contextmanager
    def with_patience(self) -> Iterator[None]:
        """Let the block take minutes between two statements."""
        limit, _ = self._connection.execute(query("limit_idleness"), {"limit": _PATIENCE}).fetchone() or ("0", "")
        yield
        self._connection.execute(query("limit_idleness"), {"limit": limit})

    def _limit_lock_waits(self, milliseconds: int) -> None:
        self._connection.execute(query("limit_lock_waits"), {"milliseconds": str(milliseconds)})

    def stage(self, days: Iterable[str], chunks: Iterable[bytes]) -> None:
        """Stage totals, given as rows of COPY, and create the partitions of these days where they are missing."""
        for day in days:
            self._connection.execute(query("ensure_day"), {"day": day})
        if self._staged:
            self._connection.execute(query("clear_totals"))
        self._staged = True
        self._copy("copy_totals", chunks)

    def missing_pairs(self) -> list[Missing]:
        """Return the staged pairs that have no row in `user_agents`."""
        rows = self._connection.execute(query("missing_pairs"))
        return [Missing(user.hex, agent.hex, *exist) for user, agent, *exist in rows]

    def full_counters(self) -> list[FullCounter]:
        """Return the staged pairs of which a counter would exceed the type of its column."""
        rows = self._connection.execute(query("full_counters"))
        return [FullCounter(user.hex, agent.hex, *counter) for user, agent, *counter in rows]

    def apply_staged(self, ranges: Iterable[tuple[str, str]]) -> int:
        """Add the staged totals of ranges of users, both ends included and in key order, to counters and roll-up.

        Returns the number of rows updated in `user_agents`.
        """
        self._note_lock()
        apply = query("apply_totals")
        return sum(self._connection.execute(apply, {"first": first, "last": last}).rowcount for first, last in ranges)

    def create_parents(self, users: Iterable[str], agents: Iterable[str]) -> None:
        """Insert bare rows for users and agents that exist only outside this database.

        Raises:
            SettingsError: the platform owns `auth.users`, or this role may not insert there.
        """
        owns_users, may_create, role = self._connection.execute(query("creating_parents")).fetchone() or ()
        if not owns_users:
            raise SettingsError("USAGE_UNKNOWN=create is not for a platform that owns auth.users; unset it")
        if not may_create:
            raise SettingsError(
                f"USAGE_UNKNOWN=create needs GRANT EXECUTE ON FUNCTION public.usage_create_parents TO {role}"
            )
        self._connection.execute(query("create_parents"), {"users": array(users), "agents": array(agents)})

    def insert_pairs(self, pairs: Sequence[Pair]) -> None:
        """Insert the rows of pairs at their first use."""
        self._note_lock()
        self._connection.execute(query("insert_pairs"), _pair_arrays(pairs))

    def mark_hours(self, hours: Sequence[str]) -> None:
        """Mark the hours of events, given by their start, to be rolled up again."""
        self._connection.execute(query("mark_hours"), {"hours": array(hours)})

    def write_ledger(self, chunks: Iterable[bytes], events: int) -> None:
        """Append this number of events, given as rows of COPY, to the ledger.

        Raises:
            DuplicateError: the ledger has one of them already.
            PartitionMissingError: it has no partition for one of them.
            DataRefusedError: the application's triggers have left out one of them.
        """
        with translated():
            row = self._connection.execute(query("ledger_takes_copy")).fetchone()
            if row and row[0]:
                written = self._copy("copy_ledger", chunks)
            else:
                self._connection.execute(self._store.temporary(query("stage_ledger")))
                self._connection.execute(query("clear_events"))
                self._copy("copy_events", chunks)
                written = self._connection.execute(query("insert_ledger")).rowcount
        if written != events:
            # It would be counted again at its next delivery.
            raise DataRefusedError("a trigger keeps it out of the ledger")

    def keep_external_ids(self, rows: Sequence[ExternalId]) -> list[ExternalId]:
        """Keep the application's own ids; return those that conflict with kept ones and are left out."""
        return keep_external_ids(self._connection, rows)

    def forgotten(self, key: ForgetKey | None, users: Iterable[UUID]) -> set[UUID]:
        """Return those of the users who were erased. Raises like `forgotten_among`."""
        return forgotten_among(self._connection, key, users)

    def quarantine(self, dead_letters: Sequence[DeadLetter]) -> Counter[str]:
        """Insert dead letters; return the number of events in those that are new in the quarantine, by reason."""
        return quarantine(self._connection, dead_letters)

    def add_intake(self, stream: str, intake: Intake, *, has_backfill: bool = False) -> None:
        """Add the batch to the intake totals of its stream, with a backfill to those that `reconcile` knows by it."""
        name = f"{stream} backfill" if has_backfill else stream
        self._connection.execute(query("add_intake"), {"stream": name, **intake._asdict()})

    def _copy(self, name: str, chunks: Iterable[bytes]) -> int:
        """Copy rows into a table; return how many were written."""
        with self._connection.cursor() as cursor:
            with cursor.copy(query(name)) as copy:
                copy.write(HEADER)
                for rows in chunks:
                    for start in range(0, len(rows), _CHUNK_BYTES):
                        copy.write(rows[start : start + _CHUNK_BYTES])
                copy.write(TRAILER)
            return cursor.rowcount


@contextmanager
def batch_transaction(store: Store) -> Iterator[BatchTransaction]:
    """Begin the transaction of one batch; it commits at the end of the block. Raises like `Store.connection`.

    Raises:
        StatementCancelledError: the administrator's time limit, which the message names, ended it.
        ConcurrencyError: somebody cancelled a statement by hand.
    """
    with needed_role("usage_ingest"), store.connection() as connection:
        transaction = BatchTransaction(connection, store)
        try:
            with translated():
                yield transaction
        except StatementCancelledError as error:
            if transaction.time_limits:
                raise StatementCancelledError(f"{error.detail}; {transaction.time_limits}") from error
            raise ConcurrencyError(error.detail) from error
