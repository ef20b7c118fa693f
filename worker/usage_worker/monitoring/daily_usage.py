"""The totals of each of the last days, in the reader's time zone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.errors import SettingsError
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from uuid import UUID

    from usage_worker.settings import Settings
    from usage_worker.store import Store


def daily_usage(store: Store, settings: Settings, days: int, user_id: UUID | None = None) -> list[dict[str, Any]]:
    """Return a row for each of the last days in the time zone of the settings, today first, of one user or of all.

    Raises:
        SettingsError: the ledger does not keep so many days.
    """
    if days > settings.retention_days:
        raise SettingsError(f"--days: the ledger keeps {settings.retention_days} days (USAGE_RETENTION_DAYS)")
    rows = store.rows(query("usage_by_day"), zone=settings.timezone, days=days, user_id=user_id)
    return [row | {"total_tokens_used": int(row["total_tokens_used"])} for row in rows]
