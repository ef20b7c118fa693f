"""Periodic tasks in the database: the lock that lets one process run a task, and the report of each last run."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import ClientCursor

from usage_worker.errors import BusyError, RoleError
from usage_worker.postgres import NEEDS_OWNER
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store


class TaskRun(NamedTuple):
    """The last run of a task."""

    task: str
    finished_at: datetime
    seconds: float
    report: dict[str, Any]


def require_owner(store: Store) -> None:
    """Check that this role owns the tables and sees all their rows.

    Raises:
        RoleError: it does not, as the role of the workers that count.
    """
    (found,) = store.rows(query("owns_tables"))
    if not found["owns_tables"]:
        raise RoleError(f"DATABASE_URL names {found['role']}, which does not own the tables", NEEDS_OWNER)


@contextmanager
def sole_transaction(store: Store, task: str) -> Iterator[Connection]:
    """Begin a transaction that holds the task's lock, which only one process at a time can have.

    The lock ends with the transaction, so that neither a killed process nor a pool of connections in between keeps it.

    Raises:
        BusyError: another process has the lock.
    """
    with store.connection() as connection:
        take_task_lock(connection, task)
        yield connection


def take_task_lock(connection: Connection, task: str) -> None:
    """Take the task's lock until the end of the open transaction.

    Raises:
        BusyError: another process has the lock.
    """
    # By the simple protocol: a portal of the extended one keeps its snapshot until the next statement, and another
    # connection's DETACH … FINALIZE would wait for it.
    row = ClientCursor(connection).execute(query("try_task_lock"), {"task": task}).fetchone()
    if not (row and row[0]):
        raise BusyError(task)


def limit_only_lock_waits(connection: Connection, timeout: str, *, in_transaction: bool) -> None:
    """Limit how long statements wait for a lock, and lift the limits of statements and transactions.

    Holds for the rest of the transaction or of the session.
    """
    connection.execute(query("only_lock_timeout"), {"lock_timeout": timeout, "in_transaction": in_transaction})


def record_run(store: Store, task: str, seconds: float, report: dict[str, Any]) -> None:
    """Record the last run of a task; `seconds` is wall time."""
    with store.connection() as connection:
        connection.execute(query("record_run"), {"task": task, "seconds": seconds, "report": json.dumps(report)})
        connection.execute(query("forget_gone_users"), {"task": task})


def last_runs(store: Store) -> dict[str, TaskRun]:
    """Return the last run of every task that has run."""
    return {row["task"]: TaskRun(**row) for row in store.rows(query("last_runs"))}
