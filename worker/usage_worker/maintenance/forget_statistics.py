"""Erased values in the planner's statistics: the tables that had them are analysed again."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from usage_worker.errors import ConcurrencyError, SchemaError, StatementCancelledError
from usage_worker.maintenance.retry import retry
from usage_worker.store.forget_statistics import analyze, stale_statistics

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from usage_worker.store.connection import Store

# For all tables; to sample one takes a fraction of a second.
SECONDS = 300.0
# How long others may hold one of them.
WAIT_SECONDS = 10.0


def renew_statistics(store: Store, users: Collection[UUID], changed: Collection[int], since: datetime | None) -> str:
    """Analyse the tables that `stale_statistics` returns.

    Returns which could not be analysed in time, or an empty text: that is no failure, since the next run does it.
    """
    deadline, left = time.monotonic() + SECONDS, []
    for table in stale_statistics(store, users, changed, since):
        seconds = deadline - time.monotonic()
        try:
            if seconds > 0:
                retry(partial(analyze, store, table), min(seconds, WAIT_SECONDS), attempts=1)
                continue
        except SchemaError:
            continue  # it was dropped meanwhile
        except (ConcurrencyError, StatementCancelledError):
            pass  # noted like those for which no time is left
        left.append(table.name)
    if not left:
        return ""
    return f"statistics may still have values of the user: {', '.join(left)}; run `usage-worker forget --again --yes`"
