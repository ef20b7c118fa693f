"""Compare counters, roll-up and ledger, and repair the differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date
    from decimal import Decimal
    from typing import LiteralString

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

Figures = tuple["Decimal | None", ...]


class PairKey(NamedTuple):
    """A user and an agent; pairs sort as in the index."""

    user_id: UUID
    agent_id: UUID


FIRST_PAIR = PairKey(UUID(int=0), UUID(int=0))


class PairDifference(NamedTuple):
    """A pair whose figures are not the expected ones."""

    pair: PairKey
    expected: Figures
    found: Figures
    unexplained: Figures
    """The surplus of each figure that has no explanation."""


class RepairedPairs(NamedTuple):
    """The differences that one step of a repair worked on, in the order of the pairs."""

    rows: list[PairDifference]
    last: PairKey | None
    """The last pair of the step; None where no pair after it differs."""


class DailyIntake(NamedTuple):
    """The intake totals of one day; `parts` = applied + duplicate + quarantined."""

    day: date
    accepted: int
    applied: int
    parts: int


def retained_days(store: Store) -> list[date]:
    """Return the days that the ledger has, oldest first."""
    return [row["day"] for row in store.rows(query("retained_days"))]


def next_pairs(store: Store, first: PairKey, pairs: int, rows: int) -> PairKey | None:
    """Return the pair that comes `pairs` pairs, or `rows` of their rows, after `first`; None at the end."""
    found = store.rows(query("next_pairs"), **first._asdict(), pairs=pairs, rows=rows)
    return PairKey(**found[0]) if found else None


def day_differences(store: Store, day: date) -> list[PairDifference]:
    """Return the pairs whose totals of a day are not the sums of its events."""
    return _differences(store, "day_differences", {"day": day})


def counter_differences(store: Store, first: PairKey, end: PairKey | None) -> list[PairDifference]:
    """Return the pairs from `first` on and before `end` whose counters are not the sums of their days."""
    return _differences(store, "counter_differences", _range(first, end))


def count_pairs(store: Store, first: PairKey, end: PairKey | None) -> int:
    """Return the number of pairs from `first` on and before `end`."""
    return int(store.rows(query("count_pairs"), **_range(first, end))[0]["pairs"])


def repair_day(store: Store, task: str, day: date, most: int, after: PairKey | None, *, accept: bool) -> RepairedPairs:
    """Make the totals of a day equal to the sums of its events, for up to `most` pairs after the pair `after`.

    The difference is added rather than the sum written: what is counted meanwhile goes into both sides at once, so that
    the difference found before the rows are locked is still the same afterwards. A surplus is subtracted only where the
    counters do not have it, too; otherwise it stays, or `accept` moves it to the opening balance.
    """
    with sole_transaction(store, task) as connection:
        last = _find(connection, "day_differences", {"day": day}, most, after, accept=accept)
        for name in ("recreate_pairs", "lock_pairs", "drop_vanished_pairs"):
            connection.execute(query(name))
        for name in (
            "repair_retired_days",
            "insert_missing_days",
            "repair_day",
            "delete_empty_retired_days",
            "delete_empty_days",
        ):
            connection.execute(query(name), {"day": day})
        connection.execute(query("repair_times"))
        if accept:
            connection.execute(query("accept_day"))
        return RepairedPairs([row for row, _ in _found(connection)], last)


def repair_counters(
    store: Store, task: str, first: PairKey, end: PairKey | None, most: int, after: PairKey | None, *, accept: bool
) -> RepairedPairs:
    """Raise the counters of up to `most` pairs to the sums of their days; see `repair_day`.

    What a counter has beyond its days stays, or `accept` adds it to the opening balance.
    """
    with sole_transaction(store, task) as connection:
        last = _find(connection, "counter_differences", _range(first, end), most, after, accept=accept)
        for name in (
            *("recreate_pairs", "lock_pairs", "drop_vanished_pairs"),
            *("repair_counters", "insert_missing_conversation_days", "repair_conversations"),
            *(["accept_counters"] if accept else []),
            "retire_pairs",
        ):
            connection.execute(query(name))
        found = _found(connection)
    if recreated := [row.pair for row, is_recreated in found if is_recreated]:
        _restore_times(store, recreated)
    return RepairedPairs([row for row, _ in found], last)


def recorded_by_day(store: Store, day: date) -> dict[date, int]:
    """Count the events of a day by the day on which they were recorded, without those from outside the stream."""
    return {row["day"]: row["events"] for row in store.rows(query("recorded_by_day"), day=day)}


def intake_by_day(store: Store, first: date, last: date) -> list[DailyIntake]:
    """Return the intake totals of the days that are over."""
    return [DailyIntake(**row) for row in store.rows(query("intake_by_day"), first=first, last=last)]


def _restore_times(store: Store, pairs: Sequence[PairKey]) -> None:
    """Use a transaction of its own: reading the whole ledger takes a while, in which no row should be locked."""
    users, agents = zip(*pairs, strict=True)
    with store.connection() as connection:
        connection.execute(query("restore_times"), {"users": list(users), "agents": list(agents)})


def _range(first: PairKey, end: PairKey | None) -> dict[str, object]:
    end_user, end_agent = end or (None, None)
    return {**first._asdict(), "end_user": end_user, "end_agent": end_agent}


def _differences(store: Store, name: str, parameters: Mapping[str, object]) -> list[PairDifference]:
    with store.connection() as connection:
        rows = _planned(connection, query(name), {**parameters, **_part(None, None), "accept": False})
        return [PairDifference(PairKey(row[0], row[1]), tuple(row[3]), tuple(row[4]), tuple(row[7])) for row in rows]


def _part(most: int | None, after: PairKey | None) -> dict[str, object]:
    user_id, agent_id = after or (None, None)
    return {"most": most, "after_user": user_id, "after_agent": agent_id}


def _find(
    connection: Connection,
    name: str,
    parameters: Mapping[str, object],
    most: int,
    after: PairKey | None,
    *,
    accept: bool,
) -> PairKey | None:
    """Fill the table `differing`, and lock rows like a batch from then on; return the last pair if more may follow."""
    connection.execute(query("differing"))
    statement = query("differing_insert") + "\n" + query(name) + "\nRETURNING user_id, agent_id"
    pairs = _planned(connection, statement, {**parameters, **_part(most, after), "accept": accept})
    connection.execute(query("begin"))
    return PairKey(*pairs[-1]) if len(pairs) == most else None


def _planned(
    connection: Connection, statement: LiteralString, parameters: Mapping[str, object]
) -> list[tuple[Any, ...]]:
    """Execute unprepared, since the plan of one day or range is not that of another."""
    cursor = connection.execute(statement, parameters, prepare=False)
    return cursor.fetchall() if cursor.description else []


def _found(connection: Connection) -> list[tuple[PairDifference, bool]]:
    rows = connection.execute(query("differing_rows")).fetchall()
    return [(PairDifference(PairKey(row[0], row[1]), *map(tuple, row[2:5])), row[5]) for row in rows]
