"""From a stream entry to records: the good ones, and the bad ones with their reasons."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import ValidationError

from worker.events import EVENT, explain, record_of, refusal, values_of
from worker.store import DeadLetter
from worker.stream import VERSION
from worker.wire import load, spelled_out

if TYPE_CHECKING:
    from worker.events import Record, Values, Window
    from worker.stream import RawEntry

# All of it: what is not kept here is lost. Only what PostgreSQL cannot take as one value is cut off.
_MAX_PAYLOAD = 100_000_000


@dataclass(slots=True)
class Entry:
    """A decoded stream entry; `records` may leave out positions that `letters` have."""

    stream: str
    entry_id: str
    key: UUID
    records: list[Record] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    anonymous: set[str] = field(default_factory=set)
    """Events that took their identity from the entry: nothing else tells a second delivery of them."""

    def refuse(self, position: int, reason: str, payload: str, events: int = 1) -> None:
        self.letters.append(self.letter(position, reason, payload, events))

    def letter(self, position: int, reason: str, payload: str, events: int = 1) -> DeadLetter:
        """The dead letter of one of the entry's events."""
        text = payload[:_MAX_PAYLOAD].replace("\x00", "\\u0000")
        return DeadLetter(self.key, position, self.stream, self.entry_id, events, reason, text)


def decode(stream: str, raw: RawEntry, window: Window) -> Entry:
    """Decode and check an entry; whatever is wrong with it becomes a dead letter, never an exception."""
    entry = Entry(stream, raw.entry_id, _key(stream, raw))
    body = raw.fields.get(b"events", b"")
    if raw.fields.get(b"v") != VERSION:
        return _unreadable(entry, raw, "v: the entry's version must be 1")
    try:
        records = load(body)
    except ValidationError:
        try:
            _one_by_one(entry, raw, body, window)
        except (ValueError, RecursionError) as error:
            return _unreadable(entry, raw, f"events: {error}")
    else:
        _check(entry, records, window)
    if not entry.records and not entry.letters:
        return _unreadable(entry, raw, "events: the entry holds no event")
    return entry


def payload_of(record: Record) -> str:
    """A record as the JSON of an event, to be shown, repaired and replayed."""
    return json.dumps({name: value for name, value in record._asdict().items() if value is not None})


def _check(entry: Entry, records: list[Record], window: Window) -> None:
    """What the form alone cannot say: whether a time is accepted and a rating in its place."""
    oldest, newest, _ = window
    bad = [
        position
        for position, (_, when, kind, *_, rating) in enumerate(records)
        if not oldest <= when <= newest or (kind == "rating") != (rating is not None)
    ]
    for position in bad:
        payload = payload_of(records[position])
        entry.refuse(position, _reason(payload, window), payload)
    excluded = set(bad)
    entry.positions = [position for position in range(len(records)) if position not in excluded]
    entry.records = [records[position] for position in entry.positions] if bad else records


def _reason(payload: str, window: Window) -> str:
    try:
        return refusal(values_of(EVENT.validate_json(payload)), window) or ""
    except ValidationError as error:  # a day that its month does not have
        return explain(error)


def _one_by_one(entry: Entry, raw: RawEntry, body: bytes, window: Window) -> None:
    """The long way, where something is bad or not in canonical form: each event stands for itself.

    Numbers with a point stay text: a decimal never goes through a binary float.
    """
    items: Any = json.loads(body, parse_float=str, parse_int=_bounded_int)
    if not isinstance(items, list):
        raise ValueError("must be a JSON array")  # noqa: TRY004 - reported like any other unreadable body
    for position, item in enumerate(map(spelled_out, items)):
        payload = json.dumps(item)
        try:
            values = values_of(EVENT.validate_json(payload, strict=True))
        except ValidationError as error:
            entry.refuse(position, explain(error), payload)
            continue
        if reason := refusal(values, window):
            entry.refuse(position, reason, payload)
        else:
            _accept(entry, position, values, raw)


def _accept(entry: Entry, position: int, values: Values, raw: RawEntry) -> None:
    record = record_of(values, entry.key, position, raw.added_at)
    event_id, *_ = values
    if event_id is None:
        entry.anonymous.add(record.event_id)
    entry.records.append(record)
    entry.positions.append(position)


def _bounded_int(digits: str) -> int | str:
    """No field holds more than 64 bits, and Python refuses to parse some thousand digits at all."""
    return int(digits) if len(digits) <= 20 else digits  # noqa: PLR2004


def _unreadable(entry: Entry, raw: RawEntry, reason: str) -> Entry:
    body = raw.fields.get(b"events", b"").decode(errors="backslashreplace")
    whole = Entry(entry.stream, entry.entry_id, entry.key)
    whole.refuse(0, reason, body, raw.declared)
    return whole


def _key(stream: str, raw: RawEntry) -> UUID:
    """The identity of an entry: its sender's, so that a pack sent twice is known, or else its place in the stream."""
    try:
        return UUID(raw.fields[b"id"].decode())
    except (KeyError, ValueError):
        return uuid5(NAMESPACE_URL, f"redis-stream:{stream}/{raw.entry_id}")
