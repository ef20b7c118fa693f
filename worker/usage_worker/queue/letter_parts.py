"""Whom a dead letter names, and what is left of it without the events of some users."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

from usage_worker.queue.letter_events import DeadLetterRow, placed_events, restore

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from usage_worker.events.external_ids import ExternalIds

_UUID = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
# Also in JSON within JSON, whose quotes are escaped.
_USER_ID = re.compile(r'\\*"user_id\\*"\s*:\s*(?:\\*"(.*?)\\*"|(-?\d+))', re.DOTALL)
# A printable ASCII character as JSON may write it, but for those that have a meaning in JSON.
_ESCAPED = re.compile(r"\\+u00(?!22|5c)([2-6][0-9a-f]|7[0-9a-e])", re.IGNORECASE)


def named_in(text: str, ids: ExternalIds) -> set[UUID]:
    """Return every UUID in a text, and those of users who are named in it by an application's own id."""
    text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    found = set(map(UUID, _UUID.findall(text)))
    for quoted, number in set(_USER_ID.findall(text)):
        try:
            found.add(ids.of_text("user", number or json.loads(f'"{quoted}"')).id)
        except ValueError:  # no id
            continue
    return found


def named_in_letter(letter: DeadLetterRow, ids: ExternalIds) -> set[UUID]:
    """Return what `named_in` finds in the reason and in the payload of a dead letter, unpacked."""
    return named_in(letter["reason"], ids) | named_in(_unpacked(letter), ids)


def without(letter: DeadLetterRow, users: AbstractSet[UUID], ids: ExternalIds) -> DeadLetterRow | None:
    """Return a dead letter without the events that name users, None where nothing is left.

    Of what cannot be read as events nothing is left. Several events that are left share the letter in the form of
    `DecodedEntry.refuse_events`, so that they can be repaired and replayed under their identities.
    """
    if users.isdisjoint(named_in_letter(letter, ids)):
        return letter
    try:
        placed = placed_events(letter)
    except (ValueError, RecursionError):
        return None
    if not users.isdisjoint(named_in(letter["reason"], ids)):
        return None
    first = int(letter["position"])
    written = [
        (it if isinstance(it, int) else first + number, _json(event)) for number, (it, event) in enumerate(placed)
    ]
    left = [(place, text) for place, text in written if users.isdisjoint(named_in(text, ids))]
    if not left:
        return None
    places, texts = zip(*left, strict=True)
    shared = f'{{"positions": {json.dumps(places)}, "events": [{", ".join(texts)}]}}'
    return letter | {"position": places[0], "events": len(left), "payload": shared if len(left) > 1 else texts[0]}


def _unpacked(letter: DeadLetterRow) -> str:
    """Return the payload, of a whole entry its fields, which may be packed in it."""
    try:
        fields = restore(letter)
    except ValueError:
        return str(letter["payload"])
    return b"\n".join(fields.values()).decode("utf-8", "backslashreplace")


def _json(event: Any) -> str:
    return json.dumps(event, default=str)
