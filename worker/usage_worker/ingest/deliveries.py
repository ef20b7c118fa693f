"""Deliveries of entries: which are new, which were counted before, and which use a key again for something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from usage_worker.events.refusals import Refusal
from usage_worker.ingest.event_array import time_texts, uuid_texts
from usage_worker.queue.entry import former_key, reused_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.store.batch import BatchTransaction

# Events that the ledger is asked for at once: as texts they take 200 bytes each.
_LOOKED_UP = 20_000


class Deliveries(NamedTuple):
    """The entries to count: the keys of the new ones, and those of which a delivery is known without its contents.

    `waited` are keys among the new ones: of these entries some events have waited for rows that others held, and only
    those are left. Other entries that are delivered again were counted as a whole, and are left out.
    """

    entries: Sequence[DecodedEntry]
    first_seen: set[UUID]
    seen: Sequence[DecodedEntry]
    waited: AbstractSet[UUID]


def register(transaction: BatchTransaction, entries: Sequence[DecodedEntry]) -> Deliveries:
    """Register the entries of a batch; one with a used key and other contents becomes a dead letter of its own."""
    here: dict[UUID, UUID] = {}
    for entry in entries:
        here.setdefault(entry.key, entry.contents)
    formers = {entry.key: former_key(entry.stream, entry.raw) for entry in entries}
    first_seen = transaction.register_entries(here, formers)
    if len(first_seen) == len(entries):
        return Deliveries(entries, first_seen, (), frozenset())
    waiting = transaction.waiting_positions(here.keys() - first_seen)
    waited = set(waiting)
    contents = here | transaction.entry_contents(here.keys() - first_seen)
    known: list[DecodedEntry] = []
    for entry in entries:
        first = contents[entry.key]
        if first not in (None, entry.contents):
            continue
        if positions := waiting.pop(entry.key, None):
            entry.keep(positions)
            known.append(entry)
        # A second copy in this batch of an entry of which events have waited is left out, too.
        elif entry.key in first_seen or (first is None and entry.key not in waited):
            known.append(entry)
    # No entry here matches the keys left in `waiting`: another entry reused them. The waiting events belong to the
    # first entry, and go on waiting.
    waited -= waiting.keys()
    reused = [entry for entry in entries if contents[entry.key] not in (None, entry.contents)]
    letters = _quarantine_reused(transaction, reused, first_seen) if reused else []
    first_seen |= waited
    seen = [entry for entry in known if entry.key not in first_seen]
    if seen:
        _keep_first_delivery(transaction, seen)
    return Deliveries([*known, *letters], first_seen, seen, waited)


def forgotten_in(deliveries: Deliveries) -> int:
    """Return the number of events of erased users in what is delivered for the first time, each pack once."""
    new = {it.key: it.forgotten for it in reversed(deliveries.entries) if it.key in deliveries.first_seen}
    return sum(new.values())


def known_events(transaction: BatchTransaction, entries: Sequence[DecodedEntry]) -> list[int]:
    """Return the places of those events that the ledger has, in `events_of(entries)`."""
    ids, times = (np.concatenate([entry.events[name] for entry in entries]) for name in ("event_id", "occurred_at"))
    known: list[int] = []
    for start in range(0, len(ids), _LOOKED_UP):
        part = slice(start, start + _LOOKED_UP)
        known += [start + place for place in transaction.known(uuid_texts(ids[part]), time_texts(times[part]))]
    return known


def _quarantine_reused(
    transaction: BatchTransaction, entries: Sequence[DecodedEntry], first_seen: set[UUID]
) -> list[DecodedEntry]:
    """Return entries with a used key as dead letters under keys of their own, once; add these to `first_seen`."""
    letters = {
        (key := reused_key(entry.key, entry.contents)): entry.refused_whole(Refusal.REUSED_ID.text, key)
        for entry in entries
    }
    first_seen |= transaction.register_entries({key: letter.contents for key, letter in letters.items()}, {})
    return [letter for key, letter in letters.items() if key in first_seen]


def _keep_first_delivery(transaction: BatchTransaction, seen: Sequence[DecodedEntry]) -> None:
    """Keep the dead letters of the first delivery of entries: drop those of this one, and the events that have one.

    Since then a missing user may have been added, or an event that was counted may have become too old.
    """
    dead_letters = transaction.dead_letter_positions(entry.key for entry in seen)
    for entry in seen:
        entry.dead_letters = []
        entry.keep({it for it in entry.events["position"].tolist() if (entry.key, it) not in dead_letters})
