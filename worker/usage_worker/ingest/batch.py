"""The batch: the records and totals of the entries of one transaction, as far as they follow without the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usage_worker.ingest.fold import fold

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from usage_worker.events.event import Record
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.fold import Folded
    from usage_worker.store import EventIdentity


class Batch(NamedTuple):
    """Entries of one shard, the records to count sorted by event id, the number of duplicates, and the totals by day.

    `days` is None where folding failed; the applier then finds the record that caused it.
    """

    entries: Sequence[DecodedEntry]
    records: list[Record]
    duplicate: int
    days: Folded | None


def batch_of(
    entries: Sequence[DecodedEntry], first_seen: set[UUID] | None = None, known: Collection[EventIdentity] = frozenset()
) -> Batch:
    """Build the batch, treating `first_seen` entries as new deliveries (default: all) and `known` events as counted.

    The intake totals already include the first delivery of an entry, so duplicates of a second one are not counted in
    them; its events without an id of their own must then be dropped, too. The same holds for a pack that was sent twice
    and is twice in this batch.
    """
    first_seen = {entry.key for entry in entries} if first_seen is None else set(first_seen)
    fresh: dict[EventIdentity, Record] = {}
    duplicate = 0
    for entry in entries:
        new = entry.key in first_seen
        for record in entry.records:
            identity = record[:2]
            if identity in known or identity in fresh:
                duplicate += new
            elif new or record.event_id not in entry.anonymous:
                fresh[identity] = record
        first_seen.discard(entry.key)
    # By event id, so that two batches with common events wait for each other instead of deadlocking.
    records = sorted(fresh.values())
    return Batch(entries, records, duplicate, _folded(records))


def _folded(records: list[Record]) -> Folded | None:
    try:
        return fold(records)
    except Exception:  # noqa: BLE001 - the applier folds again and finds the record
        return None
