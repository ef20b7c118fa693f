"""The materialized view of analytics: its age and its refresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import errors
from psycopg.rows import dict_row

from usage_worker.errors import BusyError
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg import Cursor

    from usage_worker.store.connection import Store


class Freshness(NamedTuple):
    """Whether the view was refreshed, and when its current figures were computed."""

    refreshed: bool
    refreshed_at: datetime


def refresh_analytics(store: Store, task: str, *, force: bool = False) -> Freshness:
    """Refresh the analytics if anything changed since the last refresh or `force`, all in one transaction.

    Raises:
        BusyError: another process refreshes them, or a user does by hand.
    """
    with sole_transaction(store, task) as connection, connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query("analytics_lock_timeout"))
        state = _row(cursor.execute(query("analytics_state")))
        if state["fresh"] and state["filled"] and not force:
            return Freshness(refreshed=False, refreshed_at=state["refreshed_at"])
        try:
            cursor.execute(query("analytics_refresh" if state["filled"] else "analytics_fill"))
        except errors.LockNotAvailable as error:
            raise BusyError(task) from error
        noted = _row(cursor.execute(query("analytics_note"), {"mark": state["mark"]}))
        return Freshness(refreshed=True, refreshed_at=noted["refreshed_at"])


def _row(cursor: Cursor[dict[str, Any]]) -> dict[str, Any]:
    row = cursor.fetchone()
    assert row is not None  # noqa: S101 - both statements return exactly one
    return row
