"""The batch: what the entries of one transaction come to, as far as that can be known without the database."""

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
    """Entries of one shard; which of their records are to be counted, by event id, and what these add up to.

    `days` is None where they could not be added up; who counts them finds out whose fault it is.
    """

    entries: Sequence[DecodedEntry]
    records: list[Record]
    duplicate: int
    days: Folded | None


def batch_of(
    entries: Sequence[DecodedEntry], first_seen: set[UUID] | None = None, known: Collection[EventIdentity] = frozenset()
) -> Batch:
    """The batch if only these entries are delivered for the first time (default: all), and these events are counted.

    What an entry brought when it was delivered before is in the books already, so a second delivery's duplicates are
    left out of them; its events that have no identity of their own must then be left out, too. The same holds for a
    pack that was sent twice and lies twice in this batch.
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
    # By event id: two batches with common events then wait for each other instead of deadlocking.
    records = sorted(fresh.values())
    return Batch(entries, records, duplicate, _folded(records))


def _folded(records: list[Record]) -> Folded | None:
    try:
        return fold(records)
    except Exception:  # noqa: BLE001 - raised again where it can be told which record it is
        return None
