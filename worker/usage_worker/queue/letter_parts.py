"""Whom a dead letter names, and what is left of it without the events of some users, or of some positions only."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from usage_worker.events.external_ids import uuids_in
from usage_worker.events.values import read_json
from usage_worker.queue.letter_events import DeadLetterRow, placed_events, restore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from decimal import Decimal

    from usage_worker.events.external_ids import ExternalIds

# Each of these reads a text of any form once, however many quotes and backslashes it has.
# A printable ASCII character as JSON may write it, but for those that have a meaning in JSON.
_ESCAPED = re.compile(r"(?<!\\)\\++u00(?!22|5c)([2-6][0-9a-f]|7[0-9a-e])", re.IGNORECASE)
# JSON within what is not JSON: the same number of backslashes stands before each of its quotes. An id has 255
# characters, which take some escapes.
_USER_ID = re.compile(
    r'(?<!\\)(\\*+)"user_id\1"\s*+:\s*+(?:\1"(.{0,16384}?(?<!\\)(?:\1\1\\\\){0,999}?)\1"|(-?\d++)(?![.eE]))', re.DOTALL
)
# The texts of JSON, the last of which may have no end, and whether a colon follows.
_BEGUN, _NUMBER = r'"((?:[^"\\]++|\\.)*+)', "(-?[0-9][0-9.eE+-]*+)"
_QUOTED = f'{_BEGUN}"'
_TEXT = re.compile(rf'{_BEGUN}(?:"|\\?\Z)(\s*+:)?+', re.DOTALL)
_VALUE = re.compile(rf'\s*+(?:{_QUOTED}|{_NUMBER}|\[(?:[^"\[\]{{]++|{_QUOTED})*+)', re.DOTALL)
_USER = re.compile(f"{_QUOTED}|{_NUMBER}", re.DOTALL)
# Programs put JSON into a text of JSON, which is in a message, whose letter is JSON.
_DEPTH = 8


def named_in(text: str, ids: ExternalIds) -> set[UUID]:
    """Return every UUID in a text, and those of users who are named in it by an application's own id."""
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    found = uuids_in(plain)
    for user in {*_users_in(text), *_quoted_users(plain)}:
        with suppress(ValueError):  # no id
            found.add(ids.of("user", user).id)
    return found


def named_in_letter(letter: DeadLetterRow, ids: ExternalIds) -> set[UUID]:
    """Return what `named_in` finds in the reason and in the payload of a dead letter, unpacked."""
    return set[UUID]().union(*(named_in(text, ids) for text in (letter["reason"], *_unpacked(letter))))


def is_readable(letter: DeadLetterRow) -> bool:
    """Return whether a dead letter can be read as events."""
    try:
        placed_events(letter)
    except (ValueError, RecursionError):
        return False
    return True


def without(letter: DeadLetterRow, users: AbstractSet[UUID], ids: ExternalIds) -> DeadLetterRow | None:
    """Return a dead letter without the events that name users, None where nothing is left.

    Of what cannot be read as events nothing is left. Several events that are left share the letter in the form of
    `DecodedEntry.refuse_events`, so that they can be repaired and replayed under their identities.
    """
    if users.isdisjoint(named_in_letter(letter, ids)):
        return letter
    try:
        written = _written(letter)
    except (ValueError, RecursionError):
        return None
    if not users.isdisjoint(named_in(letter["reason"], ids)):
        return None
    return _with(letter, [(place, text) for place, text in written if users.isdisjoint(named_in(text, ids))])


def at(letter: DeadLetterRow, positions: AbstractSet[int]) -> DeadLetterRow | None:
    """Return a dead letter with the events at these positions of the entry only, None where it has none of them.

    Raises:
        ValueError, RecursionError: it cannot be read as events.
    """
    return _with(letter, [(place, text) for place, text in _written(letter) if place in positions])


def _written(letter: DeadLetterRow) -> list[tuple[int, str]]:
    """Return the events of a dead letter as JSON, with their positions. Raises like `placed_events`."""
    first = int(letter["position"])
    return [
        (place if isinstance(place, int) else first + number, _json(event))
        for number, (place, event) in enumerate(placed_events(letter))
    ]


def _with(letter: DeadLetterRow, left: Sequence[tuple[int, str]]) -> DeadLetterRow | None:
    if not left:
        return None
    places, texts = zip(*left, strict=True)
    shared = f'{{"positions": {json.dumps(places)}, "events": [{", ".join(texts)}]}}'
    return letter | {"position": places[0], "events": len(left), "payload": shared if len(left) > 1 else texts[0]}


def _unpacked(letter: DeadLetterRow) -> Sequence[str]:
    """Return the payload, of a whole entry its fields, which may be packed in it."""
    try:
        fields = restore(letter)
    except ValueError:
        return [letter["payload"]]
    return [value.decode("utf-8", "backslashreplace") for value in fields.values()]


def _json(event: Any) -> str:
    return json.dumps(event, default=str)


def _users_in(text: str) -> Iterator[str | int | Decimal]:
    """Yield what is called `user_id` in JSON, one or a column, and in JSON within its texts.

    Texts and numbers are looked for, and not the whole is read: it may take forty times its size, or be cut.
    """
    waiting = [(text, 0)]
    while waiting:
        part, depth = waiting.pop()
        for found in _TEXT.finditer(part):
            inner = _read(found[1])
            if found[2] and inner == "user_id":
                value = _VALUE.match(part, found.end())
                users = _USER.findall(value[0]) if value else []
                yield from (_number(number) if number else _read(quoted) for quoted, number in users)
            elif '"' in inner and depth < _DEPTH:
                waiting.append((inner, depth + 1))


def _read(quoted: str) -> str:
    """Return what stands between the quotes of JSON, empty if it is not JSON."""
    if "\\" not in quoted:
        return quoted
    with suppress(ValueError):
        return str(json.loads(f'"{quoted}"', strict=False))
    return ""


def _number(digits: str) -> str | int | Decimal:
    """Return a number as ingest reads it, an empty text if it is not a number."""
    with suppress(ValueError):
        number: str | int | Decimal = read_json(digits)
        return number
    return ""


def _quoted_users(text: str) -> Iterator[str]:
    for escapes, quoted, number in _USER_ID.findall(text):
        user = number or quoted
        for _ in range(0 if number else (len(escapes) + 1).bit_length()):
            user = _read(user)
        yield user
