"""What flushes add to the counters in the record of their shard, and the kinds of errors and of dead letters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from usage_worker.errors import (
    ClockError,
    ConcurrencyError,
    LockHeldError,
    ObstacleError,
    SchemaError,
    SettingsError,
    StatementCancelledError,
    StoreUnavailableError,
    StreamUnavailableError,
)
from usage_worker.queue.flush_counters import EVENTS, SECONDS, VISIBLE, Increments, failure, quarantined

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from usage_worker.store import Intake

# The first match counts.
_FAILURES = (
    (StatementCancelledError, "cancelled"),
    (StoreUnavailableError, "postgresql_unavailable"),
    (LockHeldError, "lock"),
    (ConcurrencyError, "race"),
    ((SchemaError, ObstacleError), "schema"),
    (SettingsError, "settings"),
    (ClockError, "clock"),
    (StreamUnavailableError, "redis"),
)
# How the reasons of dead letters begin; the first match counts. What begins with the name of a field is about that.
_REASONS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        ("user_id: no such user", "unknown_user"),
        ("agent_id: no such agent", "unknown_agent"),
        ("occurred_at: older|occurred_at: the ledger has dropped", "too_old"),
        ("occurred_at: more than", "in_future"),
        ("id: was used before", "reused_id"),
        (r"\w+: this pair's would exceed", "full_counter"),
        ("v: |events: |too large|the entry ", "unreadable"),
        (r"(?!\w+Error: )\S+: ", "refused_field"),
    )
)


class Tally:
    """What was counted since `take`, to be added to the counters of a shard."""

    def __init__(self) -> None:
        self._increments = Increments()

    def committed(self, seconds: float, intake: Intake, reasons: Mapping[str, int]) -> None:
        """Add a transaction: how long it took, its events, and those of its new dead letters by reason."""
        SECONDS.add([seconds], self._increments)
        EVENTS.add([intake.accepted], self._increments)
        for reason, events in reasons.items():
            self._increments[quarantined(kind_of(reason))] += events

    def visible(self, ages: Iterable[float]) -> None:
        """Add entries that were counted, by their ages in seconds."""
        VISIBLE.add(ages, self._increments)

    def failed(self, error: Exception) -> None:
        """Add a flush that an error ended."""
        self._increments[failure(next((kind for types, kind in _FAILURES if isinstance(error, types)), "other"))] += 1

    def take(self) -> Increments:
        """Return what was added since the last time."""
        taken, self._increments = self._increments, Increments()
        return taken


def kind_of(reason: str) -> str:
    """Return the kind of a dead letter's reason."""
    return next((kind for pattern, kind in _REASONS if pattern.match(reason)), "other")
