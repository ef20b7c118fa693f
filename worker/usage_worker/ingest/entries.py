"""Decode stream entries to records, and to dead letters with their reasons."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from pydantic import ValidationError

from usage_worker.errors import UsageError
from usage_worker.events.event import EVENT, explain, record_of, refusal, values_of
from usage_worker.events.wire import load, spelled_out
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.queue.stream import VERSION
from usage_worker.store import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from usage_worker.events.event import Record, Values, Window
    from usage_worker.queue.stream import RawEntry

# A dead letter keeps the whole payload, which exists nowhere else; PostgreSQL cannot store longer values.
_MAX_PAYLOAD = 100_000_000


@dataclass(slots=True)
class DecodedEntry:
    """A decoded stream entry; each of its events is either in `records` or in `dead_letters`."""

    stream: str
    entry_id: str
    key: UUID
    records: list[Record] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    anonymous: set[str] = field(default_factory=set)
    """The ids of events that have none of their own: they are derived from the entry, which alone identifies them."""
    waiting: list[int] = field(default_factory=list)
    """The positions of events that wait for the next delivery, because others hold their rows."""
    is_counted: bool = False
    """Whether everything in it is committed, so that it may leave the stream."""

    def keep(self, positions: Collection[int]) -> None:
        """Keep the events at these positions only."""
        places = zip(self.positions, self.records, strict=True)
        kept = [(position, record) for position, record in places if position in positions]
        self.positions, self.records = [position for position, _ in kept], [record for _, record in kept]
        self.dead_letters = [dead_letter for dead_letter in self.dead_letters if dead_letter.position in positions]

    def refuse(self, position: int, reason: str, payload: str, events: int = 1) -> None:
        self.dead_letters.append(self.dead_letter(position, reason, payload, events))

    def dead_letter(self, position: int, reason: str, payload: str, events: int = 1) -> DeadLetter:
        """Return the dead letter of one of the entry's events."""
        text = payload[:_MAX_PAYLOAD].replace("\x00", "\\u0000")
        shown = printable(reason, REASON_LENGTH)
        return DeadLetter(self.key, position, self.stream, self.entry_id, events, shown, text)

    def refuse_all(self, reason: str) -> None:
        """Turn every record into a dead letter."""
        for position, record in zip(self.positions, self.records, strict=True):
            self.refuse(position, reason, payload_of(record))
        self.records, self.positions = [], []


def decode(stream: str, raw: RawEntry, window: Window) -> DecodedEntry:
    """Decode and check an entry; whatever is wrong with it becomes a dead letter.

    Raises:
        MemoryError: another process may have room for the entry.
    """
    entry = DecodedEntry(stream, raw.entry_id, _key(stream, raw))
    if raw.version != VERSION:
        return _unreadable(entry, raw, "v: the entry's version must be 1")
    try:
        _read(entry, raw, window)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - one entry must not stop its shard, whatever it is
        return _unreadable(entry, raw, f"events: {describe(error)}")
    if not entry.records and not entry.dead_letters:
        return _unreadable(entry, raw, "events: the entry holds no event")
    return entry


def describe(error: Exception) -> str:
    """Return the reason of a dead letter; our own errors and those of parsers need no type name."""
    if isinstance(error, ValidationError):
        return explain(error)
    return str(error) if isinstance(error, UsageError | ValueError) else f"{type(error).__name__}: {error}"


def payload_of(record: Record) -> str:
    """Return a record as the JSON object of an event, which can be repaired and replayed."""
    return json.dumps({name: value for name, value in record._asdict().items() if value is not None})


def _read(entry: DecodedEntry, raw: RawEntry, window: Window) -> None:
    body = raw.body or b""
    try:
        records = load(body)
    except ValidationError:
        _one_by_one(entry, raw, body, window)
    else:
        _check(entry, records, window)


def _check(entry: DecodedEntry, records: list[Record], window: Window) -> None:
    """Reject events outside the acceptance window or with a misplaced rating; the JSON schema cannot express either."""
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
    except ValidationError as error:  # the year 0, which PostgreSQL does not have
        return explain(error)


def _one_by_one(entry: DecodedEntry, raw: RawEntry, body: bytes, window: Window) -> None:
    """Decode each event by itself, because something is wrong or not in canonical form.

    Numbers with a point stay text: a decimal never passes through a binary float.
    """
    items: Any = json.loads(body, parse_float=str, parse_int=_bounded_int)
    if not isinstance(items, list):
        raise ValueError("must be a JSON array")  # noqa: TRY004 - reported like any other unreadable body
    for position, item in enumerate(map(spelled_out, items)):
        payload = json.dumps(item)
        try:
            values = values_of(EVENT.validate_json(payload, strict=True))
            reason = refusal(values, window) or _accept(entry, position, values, raw, window)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - one event must not stop its neighbours, whatever it is
            reason = describe(error)
        if reason:
            entry.refuse(position, reason, payload)


def _accept(entry: DecodedEntry, position: int, values: Values, raw: RawEntry, window: Window) -> str | None:
    """Add the record of an event; return a reason if the time that it takes from its entry is not accepted."""
    record = record_of(values, entry.key, position, raw.added_at)
    event_id, occurred_at, *_ = values
    if occurred_at is None and (reason := window.refusal(record.occurred_at)):
        return f"{reason}, by the entry's id, since the event has no time of its own"
    if event_id is None:
        entry.anonymous.add(record.event_id)
    entry.records.append(record)
    entry.positions.append(position)
    return None


def _bounded_int(digits: str) -> int | str:
    """Leave long numbers as text: no field holds more than 64 bits, and Python refuses thousands of digits."""
    return int(digits) if len(digits) <= 20 else digits  # noqa: PLR2004


def _unreadable(entry: DecodedEntry, raw: RawEntry, reason: str) -> DecodedEntry:
    fields = {_text(name): _text(value) for name, value in raw.fields.items()}
    kept = json.dumps(fields) if raw.body is None else _text(raw.body)
    whole = DecodedEntry(entry.stream, entry.entry_id, entry.key)
    whole.refuse(0, reason, kept, raw.declared)
    return whole


def _text(content: bytes) -> str:
    """Return bytes as text that can be converted back."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"base64:{b64encode(content).decode()}"


def _key(stream: str, raw: RawEntry) -> UUID:
    """Return an entry's key: its publisher's, so that a pack sent twice is recognised, or one made from its id."""
    return raw.key or uuid5(NAMESPACE_URL, f"redis-stream:{stream}/{raw.entry_id}")
