"""From a stream entry to records: the good ones, and the bad ones with their reasons."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import TypeAdapter, ValidationError

from worker.events import Event, Record, Window, explain, record_of, refusal
from worker.store import DeadLetter
from worker.stream import VERSION, RawEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVENTS = TypeAdapter(list[Event])
# A JSON number of 16 digits or more does not survive the parser's binary float; those take the exact way.
_LONG_NUMBER = re.compile(rb'"(?:cost_usd|rating)"\s*:\s*-?[\d.eE+-]{16,}')
_MAX_PAYLOAD = 100_000


@dataclass(slots=True)
class Entry:
    """A decoded stream entry."""

    stream: str
    entry_id: str
    key: UUID
    records: list[Record] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    anonymous: set[UUID] = field(default_factory=set)
    """Events that took their identity from the entry: nothing else tells a second delivery of them."""

    @property
    def events(self) -> int:
        """How many events the entry brought."""
        return len(self.records) + sum(letter.events for letter in self.letters)

    def refuse(self, position: int, reason: str, payload: str, events: int = 1) -> DeadLetter:
        """The dead letter of one of the entry's events."""
        text = payload[:_MAX_PAYLOAD].replace("\x00", "\\u0000")
        return DeadLetter(self.key, position, self.stream, self.entry_id, events, reason, text)


def decode(stream: str, raw: RawEntry, window: Window) -> Entry:
    """Decode and check an entry; whatever is wrong with it becomes a dead letter, never an exception."""
    entry = Entry(stream, raw.entry_id, _key(stream, raw))
    body = raw.fields.get(b"events", b"")
    if raw.fields.get(b"v") != VERSION:
        return _unreadable(entry, raw, "v: the entry's version must be 1")
    if _LONG_NUMBER.search(body):
        candidates = _one_by_one(entry, body)
    else:
        try:
            candidates = enumerate(_EVENTS.validate_json(body, strict=True))
        except ValidationError:
            candidates = _one_by_one(entry, body)
    try:
        for position, event in candidates:
            _accept(entry, position, event, raw, window)
    except (ValueError, RecursionError) as error:
        return _unreadable(entry, raw, f"events: {error}")
    if not entry.events:
        return _unreadable(entry, raw, "events: the entry holds no event")
    return entry


def payload_of(record: Record) -> str:
    """A record as the JSON of an event, to be shown, repaired and replayed."""
    return Event.model_construct(**record._asdict()).model_dump_json(exclude_none=True)


def _accept(entry: Entry, position: int, event: Event, raw: RawEntry, window: Window) -> None:
    if reason := refusal(event, window):
        entry.letters.append(entry.refuse(position, reason, event.model_dump_json(exclude_unset=True)))
        return
    record = record_of(event, entry.key, position, raw.added_at)
    if event.event_id is None:
        entry.anonymous.add(record.event_id)
    entry.records.append(record)
    entry.positions.append(position)


def _one_by_one(entry: Entry, body: bytes) -> Iterator[tuple[int, Event]]:
    """The slow way, for entries with something bad in them: each event stands for itself, decimals stay text."""
    items: Any = json.loads(body, parse_float=str, parse_int=_bounded_int)
    if not isinstance(items, list):
        raise ValueError("must be a JSON array")  # noqa: TRY004 - reported like any other unreadable body
    for position, item in enumerate(items):
        payload = json.dumps(item)
        try:
            event = Event.model_validate_json(payload, strict=True)
        except ValidationError as error:
            entry.letters.append(entry.refuse(position, explain(error), payload))
        else:
            yield position, event


def _bounded_int(digits: str) -> int | str:
    """No field holds more than 64 bits, and Python refuses to parse some thousand digits at all."""
    return int(digits) if len(digits) <= 20 else digits  # noqa: PLR2004


def _unreadable(entry: Entry, raw: RawEntry, reason: str) -> Entry:
    body = raw.fields.get(b"events", b"").decode(errors="backslashreplace")
    return Entry(entry.stream, entry.entry_id, entry.key, letters=[entry.refuse(0, reason, body, raw.declared)])


def _key(stream: str, raw: RawEntry) -> UUID:
    """The identity of an entry: its sender's, so that a pack sent twice is known, or else its place in the stream."""
    try:
        return UUID(raw.fields[b"id"].decode())
    except (KeyError, ValueError):
        return uuid5(NAMESPACE_URL, f"redis-stream:{stream}/{raw.entry_id}")
