"""Events of a batch that the database refused: their dead letters, and the events that they must not suppress."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from usage_worker.events.event import Record
    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.store import DeadLetter, EventIdentity

Refused = dict["EventIdentity", str]
"""The reasons, by the identities of the events."""


def letters_of(entries: Sequence[DecodedEntry], refused: Refused) -> list[DeadLetter]:
    """Return the dead letters of a batch: those of its decoding, and those of refused events."""
    dead_letters = [dead_letter for entry in entries for dead_letter in entry.dead_letters]
    if refused:
        reasons = dict(refused)
        for entry in entries:
            for position, record in zip(entry.positions, entry.records, strict=True):
                # Popped: a duplicate of a refused event is a duplicate, not a second dead letter.
                if reason := reasons.pop(record[:2], None):
                    dead_letters.append(entry.dead_letter(position, reason, entry.payload(position, record)))
    return dead_letters


def others_of(batch: Batch, first_seen: Collection[UUID], refused: Refused) -> list[Record]:
    """Return the events that have the identity of a refused one and other contents, the first for each identity.

    They passed for duplicates; in a batch of their own they would be counted. An application that corrects an event
    sends it again with the same key, perhaps at once.
    """
    if not refused:
        return []
    firsts = {identity: record for record in batch.records if (identity := record[:2]) in refused}
    others: dict[EventIdentity, Record] = {}
    for entry in batch.entries:
        if entry.key in first_seen:
            for record in entry.records:
                if (first := firsts.get(record[:2])) and record != first:
                    others.setdefault(record[:2], record)
    return sorted(others.values())
