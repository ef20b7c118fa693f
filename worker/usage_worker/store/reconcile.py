"""Compare counters, roll-up, ledger and intake totals, and repair the first two."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from psycopg.types.json import set_json_loads

from usage_worker.store.holders import begin, short_lock_waits
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from typing import LiteralString

    from psycopg import Cursor

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

Figures = dict[str, "Decimal | None"]
"""Figures by the name of their column; conversations of the roll-up are `usage_daily.conversation_count`."""

# The day of `usage_daily` that holds opening balances.
OPENING_DAY = "1970-01-01"


class PairKey(NamedTuple):
    """A user and an agent, in the order of the index."""

    user_id: UUID
    agent_id: UUID


FIRST_PAIR = PairKey(UUID(int=0), UUID(int=0))


class PairDifference(NamedTuple):
    """The figures of a pair, some of which are not as expected."""

    pair: PairKey
    expected: Figures
    found: Figures
    unexplained: Figures
    """How much of each figure is too high without a reason."""


class RepairStep(NamedTuple):
    """What one step of a repair found, in the order of the pairs."""

    rows: list[PairDifference]
    last: PairKey | None
    """The last pair of the step; None if no other pair differs."""


class RecordedEvents(NamedTuple):
    """The fewest and the most events that may have come by the stream, of those that were recorded on one day."""

    day: date
    fewest: int
    most: int


class DailyIntake(NamedTuple):
    """The intake totals of one day; `parts` is the sum of applied, duplicate and quarantined events."""

    day: date
    accepted: int
    applied: int
    parts: int
    has_backfill: bool


def retained_days(store: Store) -> list[date]:
    """Return the days of the ledger, oldest first."""
    return [row["day"] for row in store.rows(query("retained_days"))]


def any_pair(store: Store) -> PairKey:
    """Return a pair at random, or the first possible one where none was found."""
    found = store.rows(query("any_pair"))
    return PairKey(**found[0]) if found else FIRST_PAIR


def next_pairs(store: Store, first: PairKey, pairs: int, rows: int) -> PairKey | None:
    """Return the first pair after the chunk that begins with `first`, or None if that chunk is the last one.

    A chunk has at most `pairs` pairs, and about `rows` of their days or conversations.
    """
    found = store.long_rows(query("next_pairs"), **first._asdict(), pairs=pairs, rows=rows)
    return PairKey(**found[0]) if found else None


def day_differences(store: Store, day: date) -> list[PairDifference]:
    """Return the pairs whose totals of a day are not those of its events."""
    return _differences(store, "day_differences", {"day": day})


def counter_differences(store: Store, first: PairKey, end: PairKey | None) -> list[PairDifference]:
    """Return the pairs from `first` to before `end` whose counters are not the sums of their days."""
    return _differences(store, "counter_differences", _range(first, end))


def count_pairs(store: Store, first: PairKey, end: PairKey | None) -> int:
    """Return the number of pairs from `first` to before `end`."""
    return int(store.long_rows(query("count_pairs"), **_range(first, end))[0]["pairs"])


def repair_day(store: Store, task: str, day: date, most: int, after: PairKey | None, *, accept: bool) -> RepairStep:
    """Set the days of up to `most` pairs after a pair to the sums of their events.

    The difference is added instead of writing the sum: what is counted meanwhile goes into both sides at once, so the
    difference found before the rows are locked is still the same afterwards. A day that is too high is lowered only by
    what no counter has; the rest stays, or becomes opening balance if that is accepted.
    """
    with sole_transaction(store, task) as connection:
        last = _find(store, connection, "day_differences", {"day": day}, most, after, accept=accept)
        connection.execute(query("differing_times"), {"day": day})
        _lock(connection)
        connection.execute(query("insert_missing_retired_days"), {"day": day})
        connection.execute(query("repair_retired_days"), {"day": day})
        _add_to_days(connection, day, is_opening=False)
        connection.execute(query("delete_empty_retired_days"), {"day": day})
        connection.execute(query("delete_empty_days"), {"day": day})
        connection.execute(query("repair_times"))
        if accept:
            connection.execute(query("accept_day"))
            _add_to_days(connection, OPENING_DAY, is_opening=True)
        return RepairStep(_found(connection), last)


def repair_counters(
    store: Store, task: str, first: PairKey, end: PairKey | None, most: int, after: PairKey | None, *, accept: bool
) -> RepairStep:
    """Raise the counters of up to `most` pairs to the sums of their days, in the way of `repair_day`.

    What a counter has beyond its days stays, or becomes opening balance if that is accepted. A row that is recreated
    gets its times in the same transaction: once it exists, no later step would see that they are missing.
    """
    with sole_transaction(store, task) as connection:
        last = _find(store, connection, "counter_differences", _range(first, end), most, after, accept=accept)
        connection.execute(query("lost_times"))
        _lock(connection)
        for name in ("repair_counters", "repair_times", "insert_missing_conversation_days", "repair_conversations"):
            connection.execute(query(name))
        if accept:
            connection.execute(query("accept_counters"))
            _add_to_days(connection, OPENING_DAY, is_opening=True)
        connection.execute(query("retire_pairs"))
        return RepairStep(_found(connection), last)


def recorded_by_day(store: Store, day: date) -> list[RecordedEvents]:
    """Return how many events of a day came by the stream and were recorded on which days."""
    return [RecordedEvents(**row) for row in store.long_rows(query("recorded_by_day"), day=day)]


def intake_by_day(store: Store, first: date, last: date) -> list[DailyIntake]:
    """Return the intake totals of the days that are over."""
    return [DailyIntake(**row) for row in store.rows(query("intake_by_day"), first=first, last=last)]


def _range(first: PairKey, end: PairKey | None) -> dict[str, object]:
    end_user, end_agent = end or (None, None)
    return {**first._asdict(), "end_user": end_user, "end_agent": end_agent}


def _differences(store: Store, name: str, parameters: Mapping[str, object]) -> list[PairDifference]:
    def fetch(connection: Connection) -> list[PairDifference]:
        connection.execute(query("no_time_limits"))
        cursor = _unprepared(connection, query(name), {**parameters, **_part(None, None), "accept": False})
        return [_difference(row[0], row[1], row[3], row[4], row[7]) for row in cursor]

    return store.read(fetch)


def _part(most: int | None, after: PairKey | None) -> dict[str, object]:
    user_id, agent_id = after or (None, None)
    return {"most": most, "after_user": user_id, "after_agent": agent_id}


def _find(
    store: Store,
    connection: Connection,
    name: str,
    parameters: Mapping[str, object],
    most: int,
    after: PairKey | None,
    *,
    accept: bool,
) -> PairKey | None:
    """Fill the table `differing`. Returns the last pair if more may follow."""
    connection.execute(store.temporary(query("differing")))
    statement = query("differing_insert") + "\n" + query(name) + "\nRETURNING user_id, agent_id"
    cursor = _unprepared(connection, statement, {**parameters, **_part(most, after), "accept": accept})
    pairs = cursor.fetchall()
    return PairKey(*pairs[-1]) if len(pairs) == most else None


def _lock(connection: Connection) -> None:
    """Lock the rows of the pairs in the order of a batch, recreating those that are missing.

    They are pairs of all shards: while one is waited for, the batches of other shards wait for those that are locked.

    Raises:
        LockHeldError: somebody holds one of them; the message names who.
    """
    begin(connection)
    with short_lock_waits(connection):
        for name in ("recreate_pairs", "lock_pairs", "drop_vanished_pairs"):
            connection.execute(query(name))


def _add_to_days(connection: Connection, day: date | str, *, is_opening: bool) -> None:
    for name in ("insert_missing_days", "repair_days"):
        connection.execute(query(name), {"day": day, "is_opening": is_opening})


def _unprepared(
    connection: Connection, statement: LiteralString, parameters: Mapping[str, object]
) -> Cursor[tuple[Any, ...]]:
    """Execute without preparing: the plan of one day or range is not that of another."""
    return _exact(connection).execute(statement, parameters, prepare=False)


def _exact(connection: Connection) -> Cursor[tuple[Any, ...]]:
    """Open a cursor that reads the numbers in JSON as decimals: costs are no floats."""
    cursor = connection.cursor()
    set_json_loads(partial(json.loads, parse_int=Decimal, parse_float=Decimal), cursor)
    return cursor


def _found(connection: Connection) -> list[PairDifference]:
    return [_difference(*row) for row in _exact(connection).execute(query("differing_rows"))]


def _difference(user_id: UUID, agent_id: UUID, *figures: Mapping[str, Decimal | str | None]) -> PairDifference:
    # JSON has no NaN; PostgreSQL writes it as a text.
    expected, found, unexplained = (
        {name: None if value is None else Decimal(value) for name, value in side.items()} for side in figures
    )
    return PairDifference(PairKey(user_id, agent_id), expected, found, unexplained)
