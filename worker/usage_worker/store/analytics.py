"""The materialized view of analytics: its age and its refresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import errors

from usage_worker.errors import BusyError
from usage_worker.store.connection import dict_rows
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from datetime import datetime

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
    with sole_transaction(store, task) as connection:
        connection.execute(query("analytics_lock_timeout"))
        (state,) = dict_rows(connection, query("analytics_state"))
        if state["fresh"] and state["filled"] and not force:
            return Freshness(refreshed=False, refreshed_at=state["refreshed_at"])
        try:
            connection.execute(query("analytics_refresh" if state["filled"] else "analytics_fill"))
        except errors.LockNotAvailable as error:
            raise BusyError(task) from error
        (noted,) = dict_rows(connection, query("analytics_note"), {"mark": state["mark"]})
        return Freshness(refreshed=True, refreshed_at=noted["refreshed_at"])
