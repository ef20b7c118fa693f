"""Decode stream entries to records, and to dead letters with their reasons."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from pydantic import ValidationError

from usage_worker.errors import UsageError
from usage_worker.events.event import EVENT, explain, record_of, refusal, values_of
from usage_worker.events.values import read_json, write_json
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
    untimed: set[int] = field(default_factory=set)
    """The positions of records that have a key of their own and no time: the first time of the key decides."""
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

    def payload(self, position: int, record: Record) -> str:
        """Return a record as the JSON object of an event, which can be repaired and replayed."""
        fields = {name: value for name, value in record._asdict().items() if value is not None}
        if position in self.untimed:
            # A replay then takes the first time of its key, too.
            del fields["occurred_at"]
        return json.dumps(fields)

    def refuse_all(self, reason: str) -> None:
        """Turn every record into a dead letter."""
        for position, record in zip(self.positions, self.records, strict=True):
            self.refuse(position, reason, self.payload(position, record))
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


def _read(entry: DecodedEntry, raw: RawEntry, window: Window) -> None:
    body = raw.body or b""
    try:
        records = load(body)
    except ValidationError:
        _one_by_one(entry, raw, body, window)
    else:
        if raw.times_are_the_publishers:
            entry.untimed = set(range(len(records)))
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
        record = records[position]
        entry.refuse(position, _reason(record, window), entry.payload(position, record))
    excluded = set(bad)
    entry.positions = [position for position in range(len(records)) if position not in excluded]
    entry.records = [records[position] for position in entry.positions] if bad else records


def _reason(record: Record, window: Window) -> str:
    try:
        return refusal(values_of(EVENT.validate_python(record._asdict())), window) or ""
    except ValidationError as error:  # the year 0, which PostgreSQL does not have
        return explain(error)


def _one_by_one(entry: DecodedEntry, raw: RawEntry, body: bytes, window: Window) -> None:
    """Decode each event by itself, because something is wrong or not in canonical form."""
    items = read_json(body)
    if not isinstance(items, list):
        raise ValueError("must be a JSON array")  # noqa: TRY004 - reported like any other unreadable body
    for position, item in enumerate(map(spelled_out, items)):
        try:
            values = values_of(EVENT.validate_python(item))
            reason = refusal(values, window) or _accept(entry, position, values, raw, window)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - one event must not stop its neighbours, whatever it is
            reason = describe(error)
        if reason:
            if raw.times_are_the_publishers and isinstance(item, dict):
                # Like `DecodedEntry.payload`: a replay must not take the publisher's time for the application's.
                item.pop("occurred_at", None)
            entry.refuse(position, reason, write_json(item))


def _accept(entry: DecodedEntry, position: int, values: Values, raw: RawEntry, window: Window) -> str | None:
    """Add the record of an event; return a reason if the time that it takes from its entry is not accepted."""
    record = record_of(values, entry.key, position, raw.added_at)
    event_id, occurred_at, *_ = values
    if occurred_at is None and (reason := window.refusal(record.occurred_at)):
        return f"{reason}, by the entry's id, since the event has no time of its own"
    if event_id is None:
        entry.anonymous.add(record.event_id)
    elif occurred_at is None or raw.times_are_the_publishers:
        entry.untimed.add(position)
    entry.records.append(record)
    entry.positions.append(position)
    return None


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
