"""The batch: the events and totals of the entries of one transaction, as far as they follow without the database."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from usage_worker.ingest.event_array import EVENT, Chosen, order_of, starts_of
from usage_worker.ingest.fold import fold

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.event_array import Events, Flags, TextTable
    from usage_worker.ingest.fold import Totals


class Batch(NamedTuple):
    """Entries of one shard, their events to count sorted by identity, the duplicates among them, and the totals.

    The field `entry` of an event is its entry's place in `entries`.
    """

    entries: Sequence[DecodedEntry]
    events: Chosen
    duplicates: Chosen
    totals: Totals

    @property
    def texts(self) -> TextTable:
        """The texts of the events; entries that were decoded together share them."""
        return self.entries[0].texts


def batch_of(entries: Sequence[DecodedEntry], first_seen: set[UUID] | None = None, known: Sequence[int] = ()) -> Batch:
    """Build the batch, treating `first_seen` entries as new deliveries (default: all).

    `known` are the places of events that are counted already, in `events_of(entries)`. The intake totals already
    include the first delivery of an entry, so duplicates of a second one are not counted in them; its events without an
    id of their own must then be dropped, too. The same holds for a pack that was sent twice and is twice in this batch.
    """
    events = events_of(entries)
    is_new = _are_new(entries, first_seen)[events["entry"]]
    may_count = is_new | ~events["is_anonymous"]
    may_count[np.array(known, np.intp)] = False
    ids, times = events["event_id"], events["occurred_at"]
    # By identity, so that two batches with common events wait for each other instead of deadlocking.
    order = order_of(ids, times)
    candidates = order[may_count[order]]
    counted = candidates[starts_of(ids.take(candidates, axis=0), times[candidates])]
    is_duplicate = is_new
    is_duplicate[counted] = False
    to_count = Chosen(events, counted)
    return Batch(entries, to_count, Chosen(events, np.flatnonzero(is_duplicate)), fold(to_count))


def events_of(entries: Sequence[DecodedEntry]) -> Events:
    """Return the events of all entries, in their order; each entry's are a part of this array from then on."""
    sizes = [len(entry.events) for entry in entries]
    events = np.empty(sum(sizes), EVENT)
    for entry, size, end in zip(entries, sizes, accumulate(sizes), strict=True):
        events[end - size : end] = entry.events
        entry.events = events[end - size : end]
    events["entry"] = np.repeat(np.arange(len(entries)), sizes)
    return events


def _are_new(entries: Sequence[DecodedEntry], first_seen: set[UUID] | None) -> Flags:
    left = {entry.key for entry in entries} if first_seen is None else set(first_seen)
    flags = np.zeros(len(entries), bool)
    for number, entry in enumerate(entries):
        flags[number] = entry.key in left
        left.discard(entry.key)
    return flags
