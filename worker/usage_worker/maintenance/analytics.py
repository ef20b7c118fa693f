"""The task `analytics.refresh`: refresh the analytics if anything changed since the last refresh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.task_run import run_task
from usage_worker.store.analytics import refresh_analytics

if TYPE_CHECKING:
    from datetime import datetime

    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

REFRESH = "analytics.refresh"


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What a refresh did; `refreshed_at` is the time of the present analytics."""

    refreshed: bool
    refreshed_at: datetime

    def as_dict(self) -> dict[str, Any]:
        return {"refreshed": self.refreshed, "refreshed_at": self.refreshed_at.isoformat(timespec="seconds")}


def refresh(store: Store) -> RefreshReport:
    """Refresh `user_agent_analytics` if anything was counted or changed since the last refresh, or a UTC day has begun.

    It is one statement: an interruption leaves the analytics as they were.

    Raises:
        BusyError: another process is refreshing.
    """
    return RefreshReport(*refresh_analytics(store, REFRESH))


def run_refresh(store: Store, _settings: Settings) -> dict[str, Any]:
    """Refresh the analytics if anything changed since the last refresh."""
    return run_task(store, REFRESH, lambda: refresh(store))
