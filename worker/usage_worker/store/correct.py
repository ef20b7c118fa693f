"""Correct an event of the ledger, and everything that it was counted in, in one transaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg import sql

from usage_worker.errors import (
    ArgumentError,
    ConcurrencyError,
    EventRefusedError,
    LockHeldError,
    NamespaceError,
    ObstacleError,
)
from usage_worker.events.refusals import Refusal
from usage_worker.postgres import translated
from usage_worker.store.connection import dict_rows
from usage_worker.store.corrected_totals import added_counters
from usage_worker.store.event_conversation import EventConversation, KeptConversation
from usage_worker.store.external_ids import keep_external_ids
from usage_worker.store.forgotten import forgotten_among
from usage_worker.store.holders import begin
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date, datetime
    from uuid import UUID

    from usage_worker.events.external_ids import ExternalId
    from usage_worker.events.tombstones import ForgetKey
    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

LedgerRow = dict[str, Any]
"""An event of the ledger: its fields, and `cost_source`."""

TASK: Final = "correct"
# A batch that holds the pair may wait for us: give way at once.
_SHORT_WAIT_MS = 100
# Batches that begin meanwhile wait for us, and give up after two seconds; an autovacuum gives way only after
# deadlock_timeout, a second by default.
_TABLE_WAIT_MS = 1_500
_REPAIR: Final = "repair the totals with `usage-worker run reconcile --repair` first"


class CorrectedRow(NamedTuple):
    """An event before and after the correction, and why its former conversation is still counted, if it is."""

    old: LedgerRow
    new: LedgerRow
    kept_conversation: KeptConversation | None = None


def events_of_id(store: Store, event_id: UUID) -> list[LedgerRow]:
    """Return the events of an id, the oldest first."""
    return store.rows(query("events_of_id"), event_id=event_id)


def delete_old_corrections(store: Store, task: str, before: date) -> int:
    """Delete the history of events before a (UTC) day. Returns the number of corrections deleted."""
    with sole_transaction(store, task) as connection:
        if connection.execute(query("has_table"), {"table": "usage_corrections"}).fetchone() != (True,):
            return 0
        return connection.execute(query("delete_old_corrections"), {"before": before}).rowcount


def lock_event(store: Store, event_id: UUID, occurred_at: datetime) -> None:
    """Lock an event for a moment: a lock has a transaction id, so that COMMIT waits for the standby."""
    with store.connection() as connection:
        begin(connection)
        _row(connection, "lock_event", {"event_id": event_id, "occurred_at": occurred_at})


def correct_event(
    store: Store,
    event_id: UUID,
    occurred_at: datetime,
    corrected: Callable[[LedgerRow], tuple[LedgerRow, Sequence[ExternalId]]],
    reason: str | None,
    key: ForgetKey | None,
) -> CorrectedRow:
    """Replace an event by what `corrected` makes of it; where that is the same, nothing is written.

    One correction at a time: each sees what the former ones have left of the pair. `corrected` returns the event as it
    is to be, and those of its ids that were made of numbers and texts. With `key` it knows whose user was erased.

    Raises:
        ArgumentError: the ledger no longer has the event, or its user was erased.
        ForgetKeyError: without the key nobody can tell whose.
        ObstacleError: the totals do not contain it, or nobody can tell which do.
        EventRefusedError: a counter of the pair cannot hold it.
        NamespaceError: its conversation is known under another namespace.
        BusyError: another correction is under way.
        ConcurrencyError: batches or clients hold what it needs; try it again.
    """
    with sole_transaction(store, TASK) as connection:
        limit_ms = begin(connection).lock_timeout_ms
        found = _row(connection, "lock_event", {"event_id": event_id, "occurred_at": occurred_at})
        if found is None:
            raise _gone(event_id)
        # An erasure that begins after this look waits for our end, and finds what we write.
        if forgotten_among(connection, key, [found["user_id"]]):
            raise ArgumentError(f"event {event_id}: its user was erased; `usage-worker forget --again` erases it, too")
        document, recorded_at = found.pop("document"), found.pop("recorded_at")
        new, made = corrected(dict(found))
        if new == found:
            return CorrectedRow(found, new)
        if keep_external_ids(connection, made):
            raise NamespaceError("conversation_id: is known under another UUID")
        writing = _Writing(connection, found, new, recorded_at, limit_ms)
        kept = None
        if found["type"] == "rating":
            writing.rating()
        else:
            kept = writing.use()
        writing.ledger(document, reason)
        return CorrectedRow(found, new, kept)


class _Uses(NamedTuple):
    """The uses of a pair on a day: those of its present row, and those of deleted ones."""

    live: int
    retired: int

    @property
    def are_both(self) -> bool:
        return bool(self.live and self.retired)


class _Place(NamedTuple):
    """The table whose totals have an event, by the uses that there were."""

    uses: _Uses
    table: str


class _Writing:
    """The writes of one correction."""

    def __init__(
        self, connection: Connection, old: LedgerRow, new: LedgerRow, recorded_at: datetime, limit_ms: int
    ) -> None:
        self._connection = connection
        self._old = old
        self._new = new
        self._recorded_at = recorded_at
        self._limit_ms = limit_ms
        self._key = {name: old[name] for name in ("event_id", "occurred_at", "user_id", "agent_id")}
        self._day = old["occurred_at"].date()

    def ledger(self, document: str, reason: str | None) -> None:
        """Replace the event, and add the correction to the history."""
        replaced = self._connection.execute(query("replace_event"), self._new).fetchone()
        if replaced is None:
            raise _gone(self._key["event_id"])
        texts = {"old": document, "new": replaced[0], "reason": reason}
        self._connection.execute(query("add_correction"), {**self._key, **texts})

    def rating(self) -> None:
        """Let the pair's rating follow."""
        pair = _row(self._connection, "lock_pair_of_event", self._key)
        deleted_at = self._deleted_at() if pair else None
        if pair and (deleted_at is None or self._recorded_at > deleted_at):
            ratings = {"id": pair["id"], "old": self._old["rating"], "new": self._new["rating"]}
            self._connection.execute(query("correct_rating"), {**self._key, **ratings})

    def use(self) -> KeptConversation | None:
        """Let the totals of the pair and the day follow. Returns why the former conversation is still counted."""
        conversation = EventConversation(self._connection, self._key, self._old, self._new)
        # Read before anything but the event is locked.
        seen = _row(self._connection, "pair_of_event", self._key)
        place = self._place(self._uses(), has_row=seen is not None)
        if seen:
            conversation.look(seen)
        if conversation.may_be_forgotten:
            self._keep_batches_out()
        pair = _row(self._connection, "lock_pair_of_event", self._key)
        if (seen and seen["id"]) != (pair and pair["id"]):
            raise ConcurrencyError("the row of the pair was deleted or inserted meanwhile")
        if place.uses.are_both and place.uses != self._uses():
            raise ConcurrencyError("events of this day were counted meanwhile")
        hour = self._old["occurred_at"].replace(minute=0, second=0, microsecond=0)
        self._connection.execute(query("mark_hours"), {"hours": [hour]})
        added = added_counters(self._old, self._new)
        if pair is None or place.table == "usage_retired_daily":
            self._add_to_day("usage_retired_daily", added)
            return None
        moved = conversation.move(pair, self._day)
        self._add_to_day("usage_daily", added | {"conversation_count": moved.opened})
        self._add_to_counters(pair, added | {"conversation_count": moved.opened - moved.forgotten}, moved.last)
        return moved.kept

    def _keep_batches_out(self) -> None:
        """Let no batch count until the end of the transaction; those that begin meanwhile wait for us.

        Raises:
            ConcurrencyError: some have not ended soon. Unlike a wait for a row, this one delays others, so it counts as
                an attempt.
        """
        try:
            with translated(), self._connection.transaction():
                self._limit_waits(_TABLE_WAIT_MS)
                self._connection.execute(query("keep_batches_out"))
        except LockHeldError as error:
            raise ConcurrencyError("batches, or clients that delete rows of user_agents, did not end soon") from error
        self._limit_waits(_SHORT_WAIT_MS)

    def _limit_waits(self, milliseconds: int) -> None:
        self._connection.execute(query("limit_lock_waits"), {"milliseconds": str(min(milliseconds, self._limit_ms))})

    def _deleted_at(self) -> datetime | None:
        """Return when the last row of the pair was deleted, as far as the audit trail goes back."""
        row = _row(self._connection, "deleted_at", self._key)
        return row["deleted_at"] if row else None

    def _uses(self) -> _Uses:
        [row] = dict_rows(self._connection, query("uses_of_day"), {**self._key, "day": self._day})
        return _Uses(**row)

    def _place(self, uses: _Uses, *, has_row: bool) -> _Place:
        """Return the table whose totals of the day contain the event."""
        if has_row and uses.live:
            return _Place(uses, self._table_by_time(uses.live) if uses.retired else "usage_daily")
        if not uses.retired:
            raise ObstacleError(f"the totals of {self._day} lack this event; {_REPAIR}")
        return _Place(uses, "usage_retired_daily")

    def _table_by_time(self, live: int) -> str:
        """Return the table where the pair was deleted and used again on that day, so that both have totals of it.

        Both times are those of the beginnings of transactions. They decide where they yield the totals that there are:
        where a batch and a deletion overlapped, they may be in the wrong order.
        """
        deleted_at = self._deleted_at()
        if deleted_at:
            parameters = {**self._key, "day": self._day, "since": deleted_at}
            [since] = dict_rows(self._connection, query("uses_since"), parameters)
        if deleted_at is None or since["uses"] != live:
            raise ObstacleError(
                f"the pair was deleted and used again on {self._day}; nobody can tell which totals have this event,"
                " so it cannot be corrected"
            )
        return "usage_daily" if self._recorded_at > deleted_at else "usage_retired_daily"

    def _add_to_day(self, table: str, added: dict[str, Any]) -> None:
        statement = sql.SQL(query("correct_day")).format(table=sql.Identifier(table))
        parameters = {**self._key, "day": self._day, "added": _json(added)}
        row = self._connection.execute(statement, parameters).fetchone()
        if row is None or row[0] < 0:
            raise ObstacleError(f"the totals of {self._day} lack this event; {_REPAIR}")

    def _add_to_counters(self, pair: dict[str, Any], added: dict[str, Any], last: dict[str, Any]) -> None:
        parameters = {"id": pair["id"], "added": _json(added)}
        if impossible := _row(self._connection, "impossible_counter", parameters):
            if impossible["total"] < 0:
                raise ObstacleError(f"{impossible['counter']}: the counters of this pair lack this event; {_REPAIR}")
            raise EventRefusedError(Refusal.FULL_COUNTER.of(impossible["counter"], impossible["most"]))
        self._connection.execute(query("correct_counters"), {**parameters, **last})


def _gone(event_id: UUID) -> ArgumentError:
    return ArgumentError(f"event {event_id}: the ledger no longer has it")


def _row(connection: Connection, name: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    return next(iter(dict_rows(connection, query(name), parameters)), None)


def _json(added: dict[str, Any]) -> str:
    return json.dumps(added, default=str)
