"""Decode stream entries to records, and to dead letters with their reasons."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

from pydantic import ValidationError

from usage_worker.errors import UsageError
from usage_worker.events.event import EVENT, explain, record_of, refusal, values_of
from usage_worker.events.values import read_json, write_json
from usage_worker.events.wire import load, load_row, spelled_out
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.queue.kept import is_cut, kept
from usage_worker.queue.stream import VERSION, RawEntry, key_of
from usage_worker.store import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from usage_worker.events.event import Record, Values, Window

# What an entry may hold; our publisher fills 500 events and some 100 kB. One that holds more is not decoded, since a
# decoded value takes up to 40 times its bytes.
MAX_ENTRY_BYTES = 2**24
MAX_ENTRY_EVENTS = 100_000
# In all of its events together, counted by commas.
MAX_ENTRY_VALUES = 2_000_000
# An object with more fields than this is no event, and a million complaints about unknown fields would say no more.
_MAX_FIELDS = 100
# More bad events than this of one entry share a dead letter.
MAX_LETTERS = 100
# For an entry that is built from records.
_NO_ENTRY, _NO_CONTENTS = RawEntry("0-0", {}), UUID(int=0)
# The same for every entry, so that such dead letters are grouped by their reason; their numbers are a column.
_SHARED_REASON = f"{{}} (the first of more than {MAX_LETTERS} bad events of one entry)"


class BadEvent(NamedTuple):
    """An event that cannot be counted, as JSON, and why."""

    position: int
    reason: str
    payload: str


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

    raw: RawEntry = _NO_ENTRY
    """The entry as it came."""
    contents: UUID = _NO_CONTENTS
    """A hash of its events."""

    @classmethod
    def of(cls, stream: str, raw: RawEntry) -> Self:
        """Return an entry that is not decoded yet."""
        return cls(stream, raw.entry_id, key_of(stream, raw), raw=raw, contents=raw.contents)

    def keep(self, positions: Collection[int]) -> None:
        """Keep the events at these positions only."""
        places = zip(self.positions, self.records, strict=True)
        left = [(position, record) for position, record in places if position in positions]
        self.positions, self.records = [position for position, _ in left], [record for _, record in left]
        self.dead_letters = [dead_letter for dead_letter in self.dead_letters if dead_letter.position in positions]

    def refuse(self, position: int, reason: str, payload: str, events: int = 1) -> None:
        self.dead_letters.append(self.dead_letter(position, reason, payload, events))

    def dead_letter(self, position: int, reason: str, payload: str, events: int = 1) -> DeadLetter:
        """Return the dead letter of one of the entry's events."""
        shown = printable(reason, REASON_LENGTH)
        return DeadLetter(self.key, position, self.stream, self.entry_id, events, shown, payload)

    def refuse_events(self, bad: Sequence[BadEvent]) -> None:
        """Add the dead letters of events; many share one, which keeps their positions."""
        if len(bad) <= MAX_LETTERS:
            for event in bad:
                self.refuse(event.position, event.reason, event.payload)
            return
        positions = json.dumps([event.position for event in bad])
        payload = f'{{"positions": {positions}, "events": [{", ".join(event.payload for event in bad)}]}}'
        self.refuse(bad[0].position, _SHARED_REASON.format(bad[0].reason), payload, len(bad))

    def payload(self, position: int, record: Record) -> str:
        """Return a record as the JSON object of an event, which can be repaired and replayed."""
        fields = {name: value for name, value in record._asdict().items() if value is not None}
        if position in self.untimed:
            # A replay then takes the first time of its key, too.
            del fields["occurred_at"]
        return json.dumps(fields)

    def refuse_all(self, reason: str) -> None:
        """Turn every record into a dead letter."""
        places = zip(self.positions, self.records, strict=True)
        self.refuse_events([BadEvent(position, reason, self.payload(position, record)) for position, record in places])
        self.records, self.positions = [], []

    def refused_whole(self, reason: str, key: UUID) -> DecodedEntry:
        """Return the entry under another key, with one dead letter for all of it."""
        events = len(self.records) + sum(dead_letter.events for dead_letter in self.dead_letters)
        whole = replace(self, key=key, records=[], positions=[], dead_letters=[], anonymous=set(), untimed=set())
        return whole.refuse_raw(reason, events)

    def refuse_raw(self, reason: str, events: int) -> DecodedEntry:
        """Add one dead letter with every field of the entry as it came, which stands for its events."""
        payload = kept(self.stream, self.raw, self.key, events)
        if is_cut(payload):
            reason = f"too large, only the beginning is kept; {reason}"
        self.refuse(0, reason, payload, events)
        return self


def decode(stream: str, raw: RawEntry, window: Window) -> DecodedEntry:
    """Decode and check an entry; whatever is wrong with it becomes a dead letter.

    Raises:
        MemoryError: another process may have room for the entry.
    """
    entry = DecodedEntry.of(stream, raw)
    if raw.version != VERSION:
        return _unreadable(entry, "v: the entry's version must be 1")
    try:
        _read(entry, raw, window)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - one entry must not stop its shard, whatever it is
        return _unreadable(entry, f"events: {describe(error)}")
    if not entry.records and not entry.dead_letters:
        return _unreadable(entry, "events: the entry holds no event")
    return entry


def set_aside(stream: str, raw: RawEntry) -> DecodedEntry:
    """Quarantine an entry without looking into it, because that has ended other workers."""
    return _unreadable(
        DecodedEntry.of(stream, raw), "the entry ended every worker that read it; it was not decoded again"
    )


def describe(error: Exception) -> str:
    """Return the reason of a dead letter; our own errors and those of parsers need no type name."""
    if isinstance(error, ValidationError):
        return explain(error)
    return str(error) if isinstance(error, UsageError | ValueError) else f"{type(error).__name__}: {error}"


def _read(entry: DecodedEntry, raw: RawEntry, window: Window) -> None:
    body = raw.body or b""
    if len(body) > MAX_ENTRY_BYTES:
        raise ValueError(f"more than {MAX_ENTRY_BYTES} bytes")
    if len(body) > MAX_ENTRY_VALUES and body.count(b",") > MAX_ENTRY_VALUES:
        raise ValueError(f"more than {MAX_ENTRY_VALUES} values")
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
    excluded = set(bad)
    entry.positions = [position for position in range(len(records)) if position not in excluded]
    entry.records = [records[position] for position in entry.positions] if bad else records
    _refuse(entry, [_bad_record(entry, position, records[position], window) for position in bad])


def _is_accepted(record: Record, window: Window) -> bool:
    return window.oldest <= record.occurred_at <= window.newest and (record.type == "rating") != (record.rating is None)


def _bad_record(entry: DecodedEntry, position: int, record: Record, window: Window) -> BadEvent:
    try:
        reason = refusal(values_of(EVENT.validate_python(record._asdict())), window) or ""
    except ValidationError as error:  # the year 0, which PostgreSQL does not have
        reason = explain(error)
    return BadEvent(position, reason, entry.payload(position, record))


def _one_by_one(entry: DecodedEntry, raw: RawEntry, body: bytes, window: Window) -> None:
    """Decode each event by itself, because something is wrong or not in canonical form."""
    items = read_json(body)
    if not isinstance(items, list):
        raise ValueError("must be a JSON array")  # noqa: TRY004 - reported like any other unreadable body
    if len(items) > MAX_ENTRY_EVENTS:
        raise ValueError(f"more than {MAX_ENTRY_EVENTS} events")
    bad: list[BadEvent] = []
    for position, item in enumerate(items):
        # Most rows of a publisher's entry are good, even if one is bad; this takes a quarter of the time of the rest.
        if (row := load_row(item)) and _is_accepted(row, window):
            _add(entry, position, row, is_untimed=raw.times_are_the_publishers)
            continue
        event = spelled_out(item)
        reason: str | None
        try:
            reason = _shape(event) or _take(entry, position, event, raw, window)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - one event must not stop its neighbours, whatever it is
            # Not of those that share a letter: it names the first reason only, and describing takes longest.
            reason = describe(error) if len(bad) <= MAX_LETTERS else "..."
        if reason:
            if raw.times_are_the_publishers and isinstance(event, dict):
                # Like `DecodedEntry.payload`: a replay must not take the publisher's time for the application's.
                event.pop("occurred_at", None)
            bad.append(BadEvent(position, reason, write_json(event)))
    _refuse(entry, bad)


def _add(entry: DecodedEntry, position: int, record: Record, *, is_untimed: bool) -> None:
    entry.records.append(record)
    entry.positions.append(position)
    if is_untimed:
        entry.untimed.add(position)


def _refuse(entry: DecodedEntry, bad: Sequence[BadEvent]) -> None:
    if len(bad) > MAX_LETTERS and not entry.records:
        entry.refuse_raw(_SHARED_REASON.format(bad[0].reason), len(bad))
    else:
        entry.refuse_events(bad)


def _shape(item: Any) -> str | None:
    return f"event: has {len(item)} fields" if isinstance(item, dict) and len(item) > _MAX_FIELDS else None


def _take(entry: DecodedEntry, position: int, event: Any, raw: RawEntry, window: Window) -> str | None:
    """Add an event's record, or return why it is not accepted."""
    values = values_of(EVENT.validate_python(event))
    return refusal(values, window) or _accept(entry, position, values, raw, window)


def _accept(entry: DecodedEntry, position: int, values: Values, raw: RawEntry, window: Window) -> str | None:
    """Add the record of an event; return a reason if the time that it takes from its entry is not accepted."""
    record = record_of(values, entry.key, position, raw.added_at)
    event_id, occurred_at, *_ = values
    if occurred_at is None and (reason := window.refusal(record.occurred_at)):
        return f"{reason}, by the entry's id, since the event has no time of its own"
    if event_id is None:
        entry.anonymous.add(record.event_id)
    has_time = occurred_at is not None and not raw.times_are_the_publishers
    _add(entry, position, record, is_untimed=event_id is not None and not has_time)
    return None


def _unreadable(entry: DecodedEntry, reason: str) -> DecodedEntry:
    return DecodedEntry.of(entry.stream, entry.raw).refuse_raw(reason, entry.raw.declared)
