"""Periodic tasks as the database sees them: one at a time, and what each did last."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import ClientCursor

from usage_worker.errors import BusyError
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


@contextmanager
def sole_transaction(store: Store, task: str) -> Iterator[Connection]:
    """A transaction that only one process at a time has for a task, however many were sent to do it.

    The guard ends with the transaction, so that nothing stays locked behind a process that was killed, or behind a
    pool of connections in between.

    Raises:
        BusyError: another process has it.
    """
    with store.connection() as connection:
        # By the simple protocol: an extended one's portal keeps its snapshot until the next statement comes, and what a
        # task does on another connection (DETACH … FINALIZE) would wait for that.
        row = ClientCursor(connection).execute(query("try_task_lock"), {"task": task}).fetchone()
        if not (row and row[0]):
            raise BusyError(task)
        yield connection


def record_run(store: Store, task: str, seconds: float, report: dict[str, Any]) -> None:
    """Note what a task did."""
    with store.connection() as connection:
        connection.execute(query("record_run"), {"task": task, "seconds": seconds, "report": json.dumps(report)})


def last_runs(store: Store) -> dict[str, TaskRun]:
    """The last run of every task that ran at least once."""
    return {row["task"]: TaskRun(**row) for row in store.rows(query("last_runs"))}
