"""The comparison of the intake totals with the ledger."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from usage_worker.maintenance.differences import Difference
from usage_worker.store import intake_by_day, recorded_by_day

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from usage_worker.store import Store


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
    recorded: Counter[date] = Counter()
    for day in days:
        recorded.update(recorded_by_day(store, day))
    found = []
    for intake in intake_by_day(store, first, days[-1]):
        applied = max(recorded[intake.day], intake.applied if intake.has_backfill else 0)
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
