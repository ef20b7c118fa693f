"""The commonest reason for dead letters, and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usage_worker.events.refusals import Refusal
from usage_worker.printable import printable
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from usage_worker.store.connection import Store

NEWEST_DEAD_LETTERS = 1_000
_CREATE = "create the {}, or set USAGE_UNKNOWN=create for the workers; then `usage-worker dead-letters replay --all`"
_REMEDIES = {
    Refusal.NO_USER.text: _CREATE.format("user"),
    Refusal.NO_AGENT.text: _CREATE.format("agent"),
}
_OTHER_REMEDY = "see `usage-worker dead-letters list`; repair with the options of `usage-worker dead-letters replay`"


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The commonest reason among the newest dead letters that wait for a replay: `events` of their `total`."""

    reason: str
    events: int
    total: int
    remedy: str


def quarantine(store: Store) -> Quarantine | None:
    """Return the commonest reason among the newest dead letters, or None if none of them waits for a replay."""
    for row in store.rows(query("commonest_reason"), newest=NEWEST_DEAD_LETTERS):
        remedy = _REMEDIES.get(row["reason"], _OTHER_REMEDY)
        return Quarantine(printable(row["reason"]), row["events"], row["total"], remedy)
    return None
