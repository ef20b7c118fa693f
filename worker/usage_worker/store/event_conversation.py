"""The conversations of a pair when one of its events gets another conversation, or none.

A conversation is forgotten only if every use of the pair is in the ledger and no other one names it. Where the pair
has uses that the ledger does not have, of dropped days or from before the upgrade to 4.0.0, it stays counted: one of
them may have named it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from psycopg.rows import dict_row

from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime
    from uuid import UUID

    from usage_worker.postgres import Connection

KeptConversation = Literal["elsewhere", "older uses"]
"""Why a conversation stays counted: another use names it, or the ledger does not have all uses of the pair."""


class _Day(NamedTuple):
    """The pair's uses of a day, without those of a deleted row; `total` is their number by the roll-up."""

    total: int
    uses: int
    is_elsewhere: bool
    newest: tuple[datetime, UUID] | None
    """The newest conversation of other uses, with its time."""


class Moved(NamedTuple):
    """How many conversations were opened and forgotten, why the former one was not, and the last one of the pair."""

    opened: int
    forgotten: int
    kept: KeptConversation | None
    last: dict[str, Any]


class EventConversation:
    """The conversation of an event before and after its correction."""

    def __init__(
        self, connection: Connection, key: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> None:
        self._connection = connection
        self._key = dict(key)
        self._old: UUID | None = old["conversation_id"]
        self._new: UUID | None = new["conversation_id"]
        self._time: datetime = key["occurred_at"]
        self._days: dict[date, _Day] = {}
        self._are_all_read = False

    @property
    def may_be_forgotten(self) -> bool:
        """Whether the former conversation is no longer to be counted, by what was read so far."""
        return self._is_given_up and self._are_all_read and not self._is_elsewhere

    @property
    def _is_given_up(self) -> bool:
        return self._old is not None and self._old != self._new

    @property
    def _is_elsewhere(self) -> bool:
        return any(day.is_elsewhere for day in self._days.values())

    def look(self, pair: Mapping[str, Any]) -> None:
        """Read the pair's other uses, from the newest day back, as far as needed; nothing is locked meanwhile."""
        if not self._is_given_up:
            return
        wants_last = self._is_last(pair)
        for day, total in self._used_days().items():
            self._days[day] = found = self._read(day, total)
            wants_last = wants_last and found.newest is None
            if self._is_elsewhere and not wants_last:
                return
        # What is counted meanwhile makes it more; `move` looks again.
        self._are_all_read = sum(day.uses for day in self._days.values()) >= pair["usage_count"]

    def move(self, pair: Mapping[str, Any], day: date) -> Moved:
        """Open the new conversation of the event and forget the former one, with the pair locked."""
        forgotten, kept = self._give_up(pair, day) if self._is_given_up else (0, None)
        opened = self._execute("open_conversation", self._new) if self._new not in (None, self._old) else 0
        at, last = self._last(pair)
        return Moved(opened, forgotten, kept, {"last_conversation_id": last, "last_conversation_at": at})

    def _give_up(self, pair: Mapping[str, Any], day: date) -> tuple[int, KeptConversation | None]:
        """Forget the former conversation, or return why it stays, as by what was counted since `look`."""
        self._read_again()
        uses = sum(found.uses for found in self._days.values())
        if not self.may_be_forgotten or uses != pair["usage_count"]:
            return 0, "elsewhere" if self._is_elsewhere else "older uses"
        forgotten = self._execute("forget_conversation", self._old)
        if forgotten:
            self._execute("forget_conversation_day", self._old, day=day)
        return forgotten, None

    def _read_again(self) -> None:
        """Read the days again on which something was counted since the first look."""
        for day, total in self._used_days().items():
            known = self._days.get(day)
            if (known.total != total) if known else self._are_all_read:
                self._days[day] = self._read(day, total)

    def _last(self, pair: Mapping[str, Any]) -> tuple[datetime | None, UUID | None]:
        """Return the last conversation of the pair, with its time; at equal times the greater, as batches choose."""
        at, last = pair["last_conversation_at"], pair["last_conversation_id"]
        if self._old == self._new:
            return at, last
        if None not in (at, last) and not self._is_last(pair):
            known = [(at, last)]
        else:
            known = [day.newest for day in self._days.values() if day.newest]
        if self._new is not None:
            known.append((self._time, self._new))
        return max(known, default=(None, None))

    def _is_last(self, pair: Mapping[str, Any]) -> bool:
        """Whether the former conversation of the event is the last one of the pair."""
        return (pair["last_conversation_at"], pair["last_conversation_id"]) == (self._time, self._old)

    def _used_days(self) -> dict[date, int]:
        return dict(self._connection.execute(query("used_days"), self._key).fetchall())

    def _read(self, day: date, total: int) -> _Day:
        parameters = {**self._key, "day": day, "conversation_id": self._old}
        with self._connection.cursor(row_factory=dict_row) as cursor:
            # Unprepared: the plan of a day reads its partition alone.
            row = cursor.execute(query("conversations_of_day"), parameters, prepare=False).fetchone() or {}
        newest = (row["newest_at"], row["newest_id"]) if row["newest_at"] else None
        return _Day(total, row["uses"], row["is_elsewhere"], newest)

    def _execute(self, name: str, conversation: UUID | None, **parameters: object) -> int:
        return self._connection.execute(
            query(name), {**self._key, "conversation_id": conversation, **parameters}
        ).rowcount
