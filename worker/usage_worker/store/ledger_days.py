"""The partitions of days, among them those before the acceptance window, which a backfill may need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import DataRefusedError
from usage_worker.events.refusals import Refusal
from usage_worker.store.holders import begin
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.store.connection import Store


def open_past_days(store: Store, days: Sequence[str], accept_days: int) -> dict[str, str | None]:
    """Create the partitions of those days that lie before the acceptance window, each in a transaction of its own.

    Returns for each of them why its events cannot be counted, None where they can. Raises like `Store.connection`.
    """
    states = store.rows(query("past_days"), days=list(days), accept_days=accept_days)
    return {row["day"]: _opened(store, row["day"], row["state"]) for row in states}


def open_day(store: Store, day: str) -> str | None:
    """Create the partition of a day unless it exists, in a transaction of its own.

    Returns why its events cannot be counted, None where they can. Raises like `Store.connection`.
    """
    try:
        with store.connection() as connection:
            begin(connection)
            connection.execute(query("ensure_day"), {"day": day})
    except DataRefusedError as error:
        return str(error)  # our role may not create partitions of that age
    return None


def _opened(store: Store, day: str, state: str) -> str | None:
    if state == "dropped":
        return Refusal.DROPPED_DAY.of(day)
    return open_day(store, day) if state == "missing" else None
