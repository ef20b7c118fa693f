"""The hourly roll-up of the ledger: marked hours are rolled up again, and days before the ledger drops them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from usage_worker.store.partitions import partition_states
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction, take_task_lock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store


class _Rollup(NamedTuple):
    """A table of the roll-up, the column of its periods, and their length."""

    table: str
    period: str
    width: str


_HOURLY = _Rollup("agent_usage_hourly", "hour", "1 hour")
_DAILY = _Rollup("agent_usage_daily", "day", "1 day")


def marked_days(store: Store) -> list[date]:
    """Return the UTC days that have marked hours, the newest first."""
    return [row["day"] for row in store.rows(query("marked_days"))]


def roll_up_marked_hours(store: Store, task: str, day: date) -> int:
    """Roll up the marked hours of a UTC day again, all in one transaction. Returns the number of hours.

    Marks of a day that the ledger does not have, or that is final, are deleted: its hours stay as they are. A day whose
    drop was interrupted is read from its partition, which is detached.

    Raises:
        BusyError: another process is at work.
    """
    with sole_transaction(store, task) as connection:
        connection.execute(query("hours_limits"))
        partition = f"usage_events_{day:%Y%m%d}"
        is_there = partition in partition_states(connection, "usage_events")
        hours = _take_marks(connection, day)
        if not is_there or not hours or _is_final(connection, day):
            return 0
        _write_hours(connection, day, hours, partition)
        return len(hours)


def roll_up_day(connection: Connection, *, task: str, day: date, partition: str) -> None:
    """Roll up the marked hours of a UTC day, and the day itself, from its detached partition, before that is dropped.

    Nothing writes to it any more, and what is written here is final: a later partition of the same day, whose first one
    was dropped, changes nothing. The task's lock is taken.

    Raises:
        BusyError: another process is at work.
    """
    with connection.transaction():
        take_task_lock(connection, task)
        connection.execute(query("hours_limits"))
        hours = _take_marks(connection, day)
        if _is_final(connection, day):
            return
        if hours:
            _write_hours(connection, day, hours, partition)
        _roll_up(connection, _DAILY, partition, None)


def _complete(connection: Connection, partition: str) -> None:
    """Add the columns that the ledger has since a partition was detached."""
    for column, kind in connection.execute(query("missing_columns"), {"partition": partition}).fetchall():
        names = {"partition": sql.Identifier(partition), "column": sql.Identifier(column), "type": sql.SQL(kind)}
        connection.execute(sql.SQL(query("add_column")).format(**names))


def different_hours(store: Store, day: date) -> list[datetime]:
    """Return the hours of a UTC day whose number of uses is not the ledger's, and which no mark names yet."""
    return [row["hour"] for row in store.long_rows(query("different_hours"), day=day)]


def mark_different_hours(store: Store, day: date) -> int:
    """Mark the hours of a UTC day whose number of uses is not the ledger's; return how many."""
    with store.connection() as connection:
        connection.execute(query("no_time_limits"))
        return connection.execute(query("mark_found_hours") + "\n" + query("different_hours"), {"day": day}).rowcount


def _is_final(connection: Connection, day: date) -> bool:
    row = connection.execute(query("is_final_day"), {"day": day}).fetchone()
    return bool(row and row[0])


def _take_marks(connection: Connection, day: date) -> list[datetime]:
    return sorted({row[0] for row in connection.execute(query("take_marks"), {"day": day})})


def _write_hours(connection: Connection, day: date, hours: Sequence[datetime], partition: str) -> None:
    connection.execute(query("ensure_hours_month"), {"day": day})
    connection.execute(query("delete_hours"), {"hours": hours})
    _roll_up(connection, _HOURLY, partition, hours)


def _roll_up(connection: Connection, rollup: _Rollup, partition: str, hours: Sequence[datetime] | None) -> None:
    _complete(connection, partition)
    names = {"rollup": rollup.table, "period": rollup.period, "partition": partition}
    statement = sql.SQL(query("roll_up")).format(**{name: sql.Identifier(value) for name, value in names.items()})
    connection.execute(statement, {"width": rollup.width, "hours": hours})
