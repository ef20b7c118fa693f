"""Events that have a key and no time of their own: the time of the key's first delivery is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.store import BatchTransaction


def take_first_times(transaction: BatchTransaction, entries: Sequence[DecodedEntry]) -> bool:
    """Give events that have a key and no time the first time of their key.

    Returns whether any of the keys was delivered before.
    """
    untimed = [
        (entry, place, entry.records[place])
        for entry in entries
        for place, position in enumerate(entry.positions)
        if position in entry.untimed
    ]
    if not untimed:
        return False
    times: dict[str, str] = {}
    for _, _, record in untimed:
        times.setdefault(record.event_id, record.occurred_at)
    earlier = transaction.first_times(times)
    times |= earlier
    for entry, place, record in untimed:
        entry.records[place] = record._replace(occurred_at=times[record.event_id])
    return bool(earlier)
