"""Events of a batch that the database refused: their dead letters, and the events that they must not suppress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usage_worker.ingest.event_array import order_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usage_worker.ingest.batch import Batch
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.event_array import Chosen
    from usage_worker.store.quarantine import DeadLetter

Refused = list[tuple[np.void, str]]
"""Events, and the reasons."""

_IDENTITY = ["event_id", "occurred_at"]
# Other contents of one refused event that are tried in a batch: a savepoint each.
_TRIES = 10
# What the batch notes about an event; the other fields are what was sent.
_NOTES = ["entry", "position", "is_anonymous", "is_untimed"]


def letters_of(entries: Sequence[DecodedEntry], refused: Refused) -> list[DeadLetter]:
    """Return the dead letters of a batch: those of its decoding, and those of refused events."""
    dead_letters = [dead_letter for entry in entries for dead_letter in entry.dead_letters]
    for event, reason in refused:
        dead_letters.append(entries[event["entry"]].dead_letter_of(event, reason))
    return dead_letters


def others_of(batch: Batch, refused: Refused) -> Iterator[tuple[Chosen, Refused]]:
    """Yield events that have the identity of refused ones and other contents, one for each identity, to be counted.

    Each time with a list for those that are refused, too: their identities have another chance, `_TRIES` at most. They
    passed for duplicates; in batches of their own they would be counted. An application that corrects an event sends it
    again with the same key, perhaps at once and perhaps wrong again.
    """
    others = _other_contents(batch, refused) if refused and len(batch.duplicates) else {}
    for _ in range(_TRIES):
        if not others:
            return
        events = batch.duplicates[[places.pop(0) for places in others.values()]]
        again: Refused = []
        yield events[order_of(events["event_id"], events["occurred_at"])], again
        wanted = {_bytes(event, _IDENTITY) for event, _ in again}
        others = {identity: places for identity, places in others.items() if places and identity in wanted}


def _other_contents(batch: Batch, refused: Refused) -> dict[bytes, list[int]]:
    """Return the places of duplicates of refused events that differ from them and from one another, by identity."""
    seen = {_bytes(event, _IDENTITY): {_contents(event)} for event, _ in refused}
    found: dict[bytes, list[int]] = {}
    for place, event in enumerate(batch.duplicates.copied()):
        identity = _bytes(event, _IDENTITY)
        if identity in seen and (contents := _contents(event)) not in seen[identity]:
            seen[identity].add(contents)
            found.setdefault(identity, []).append(place)
    return found


def _bytes(event: np.void, fields: list[str]) -> bytes:
    return b"".join(event[field].tobytes() for field in fields)


def _contents(event: np.void) -> bytes:
    contents = event.copy()
    for note in _NOTES:
        contents[note] = 0
    return contents.tobytes()
