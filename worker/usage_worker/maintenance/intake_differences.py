"""The comparison of the intake totals with the ledger."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from usage_worker.maintenance.differences import Difference
from usage_worker.store.reconcile import intake_by_day, recorded_by_day

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from usage_worker.store.connection import Store


def intake_differences(store: Store, days: Sequence[date], accept_days: int) -> list[Difference]:
    """Compare the intake totals with the ledger, which has these days, and with their own parts.

    An event may be recorded up to `accept_days` days after it happened, so only days are compared whose events all lie
    within the ledger. The ledger may have dropped some of a backfill by now.
    """
    if not days or (first := _unbroken_from(days) + timedelta(days=accept_days + 1)) > days[-1]:
        return []
    # A user may have been erased between the reads: what differs is read once more.
    return _differences(store, days, first) and _differences(store, days, first)


def _differences(store: Store, days: Sequence[date], first: date) -> list[Difference]:
    fewest: Counter[date] = Counter()
    most: Counter[date] = Counter()
    for recorded in chain.from_iterable(recorded_by_day(store, day) for day in days):
        fewest[recorded.day] += recorded.fewest
        most[recorded.day] += recorded.most
    found = []
    for intake in intake_by_day(store, first, days[-1]):
        # Its own figure if it lies between both. Of a backfill the ledger may have dropped some by now.
        upper = intake.applied if intake.has_backfill else most[intake.day]
        applied = max(fewest[intake.day], min(upper, intake.applied))
        pairs = ("applied", applied, intake.applied), ("accepted", intake.parts, intake.accepted)
        found += [
            Difference(None, None, intake.day.isoformat(), column, int(expected), int(counted))
            for column, expected, counted in pairs
            if expected != counted
        ]
    return found


def _unbroken_from(days: Sequence[date]) -> date:
    """Return the first of the ledger's days after which none is missing; a backfill may have opened one long before."""
    backwards = days[::-1]
    return next((day for day, earlier in pairwise(backwards) if (day - earlier).days > 1), days[0])
