"""Stream entries as ingest knows them: their events to count, and their dead letters with the reasons."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from pydantic import ValidationError

from usage_worker.errors import UsageError
from usage_worker.events.columns import COLUMNS, KINDS, Form
from usage_worker.events.event import explain, time_text
from usage_worker.events.refusals import Refusal
from usage_worker.events.values import decimal_text
from usage_worker.ingest.event_array import EVENT, UNKNOWN, TextTable, days_of, uuid_of
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.queue.entry import RawEntry, key_of
from usage_worker.queue.kept import is_cut, kept, kept_fields
from usage_worker.queue.letter_parts import at
from usage_worker.store.quarantine import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from usage_worker.events.event import Window
    from usage_worker.events.external_ids import ExternalId
    from usage_worker.ingest.event_array import Events

# More bad events than this of one entry share a dead letter.
MAX_LETTERS = 100
# The same for every entry, so that such dead letters are grouped by their reason; their numbers are a column.
_SHARED_REASON = f"{{}} (the first of more than {MAX_LETTERS} bad events of one entry)"


class BadEvent(NamedTuple):
    """An event that cannot be counted, as JSON, and why."""

    position: int
    reason: str
    payload: str


@dataclass(slots=True)
class DecodedEntry:
    """A decoded stream entry; each of its events is either in `events` or in `dead_letters`."""

    stream: str
    key: UUID
    raw: RawEntry
    """The entry as it came."""
    contents: UUID
    """A hash of its events."""
    texts: TextTable
    window: Window
    """When its events may have happened."""
    events: Events = field(default_factory=lambda: np.zeros(0, EVENT))
    dead_letters: list[DeadLetter] = field(default_factory=list)
    made: list[ExternalId] = field(default_factory=list)
    """The ids in its events that were made of numbers and texts."""
    ids_problem: str = ""
    """Why the originals of others are left out, or an empty text."""
    waiting: list[int] = field(default_factory=list)
    """The positions of events that wait for the next delivery, because others hold their rows."""
    forgotten: int = 0
    """How many of its events are of erased users; they are neither in `events` nor in `dead_letters` any more."""
    is_readable: bool = True
    """Whether its events were read; else it is a dead letter as a whole."""
    is_counted: bool = False
    """Whether everything in it is committed, so that it may leave the stream."""

    @classmethod
    def of(cls, stream: str, raw: RawEntry, texts: TextTable, window: Window) -> Self:
        """Return an entry that is not decoded yet."""
        return cls(stream, key_of(stream, raw), raw, raw.contents, texts, window)

    @property
    def entry_id(self) -> str:
        return self.raw.entry_id

    def keep(self, positions: AbstractSet[int]) -> None:
        """Keep the events at these positions only, also of dead letters that events share."""
        self.events = self.events[np.isin(self.events["position"], list(positions))]
        letters, self.dead_letters = self.dead_letters, []
        for letter in letters:
            if not self.is_readable:  # nor read here: that may be what ends workers
                self.refuse(min(positions), letter.reason, kept_fields(self.raw), len(positions))
            elif letter.events == 1:
                self.dead_letters += [letter] if letter.position in positions else []
            elif part := at(letter._asdict(), positions):
                self.dead_letters.append(DeadLetter(**part))

    def dead_letter_of(self, event: np.void, reason: str) -> DeadLetter:
        """Return the dead letter of one of the entry's events."""
        return self._dead_letter(*self.bad_event(event, reason))

    def refuse(self, position: int, reason: str, payload: str, events: int = 1) -> None:
        """Add the dead letter of an event, or of several."""
        self.dead_letters.append(self._dead_letter(position, reason, payload, events))

    def refuse_events(self, bad: Sequence[BadEvent], *, are_all: bool = False) -> None:
        """Add the dead letters of events, perhaps all of the entry's; many share one, which keeps their positions."""
        if len(bad) <= MAX_LETTERS:
            for event in bad:
                self.refuse(event.position, event.reason, event.payload)
        elif are_all:
            self.refuse_raw(_SHARED_REASON.format(bad[0].reason), len(bad))
        else:
            positions = json.dumps([event.position for event in bad])
            payload = f'{{"positions": {positions}, "events": [{", ".join(event.payload for event in bad)}]}}'
            self.refuse(bad[0].position, _SHARED_REASON.format(bad[0].reason), payload, len(bad))

    def bad_event(self, event: np.void, reason: str) -> BadEvent:
        """Return one of the entry's events as JSON, which can be repaired and replayed."""
        return BadEvent(int(event["position"]), reason, json.dumps(_spelled_out(event, self.texts)))

    def refuse_days(self, reasons: Mapping[str, str]) -> None:
        """Turn the events of these UTC days, as `2026-01-31`, into dead letters with the reasons."""
        days = days_of(self.events)
        is_bad = np.isin(days, np.array(list(reasons), days.dtype))
        found = zip(self.events[is_bad], days[is_bad], strict=True)
        bad = [self.bad_event(event, reasons[str(day)]) for event, day in found]
        self.events = self.events[~is_bad]
        self.refuse_events(bad, are_all=not len(self.events) and not self.dead_letters)

    def refuse_all(self, reason: str) -> None:
        """Turn every event into a dead letter of its own, or into one that they share."""
        bad = [self.bad_event(event, reason) for event in self.events]
        self.events = self.events[:0]
        self.refuse_events(bad)

    def refused_whole(self, reason: str, key: UUID) -> DecodedEntry:
        """Return the entry under another key, with one dead letter for all of it."""
        events = len(self.events) + sum(dead_letter.events for dead_letter in self.dead_letters)
        return replace(self, key=key, events=self.events[:0], dead_letters=[]).refuse_raw(reason, events)

    def refuse_raw(self, reason: str, events: int) -> DecodedEntry:
        """Add one dead letter with every field of the entry as it came, which stands for its events."""
        payload = kept(self.stream, self.raw, self.key, events)
        if is_cut(payload):
            reason = Refusal.CUT.of(reason)
        self.refuse(0, reason, payload, events)
        return self

    def _dead_letter(self, position: int, reason: str, payload: str, events: int = 1) -> DeadLetter:
        shown = printable(reason, REASON_LENGTH)
        return DeadLetter(self.key, position, self.stream, self.entry_id, events, shown, payload)


def describe(error: Exception) -> str:
    """Return the reason of a dead letter; our own errors and those of parsers need no type name."""
    if isinstance(error, ValidationError):
        return explain(error)
    return str(error) if isinstance(error, UsageError | ValueError) else f"{type(error).__name__}: {error}"


def _spelled_out(event: np.void, texts: TextTable) -> dict[str, str | int | bool]:
    """Return an event as an object with the fields of `Event`."""
    values = {column.name: _value(event, column.name, column.form, texts) for column in COLUMNS}
    if not event["has_conversation"]:
        del values["conversation_id"]
    if event["is_untimed"]:
        # A replay then takes the first time of its key, too.
        del values["occurred_at"]
    if event["is_priced"]:
        # A replay is priced like any other event.
        del values["cost_usd"]
    return {name: value for name, value in values.items() if value is not None}


def _value(event: np.void, name: str, form: Form, texts: TextTable) -> str | int | bool | None:
    value = event[name]
    if form in (Form.TEXT, Form.DECIMAL, Form.NUMBER) and value == UNKNOWN:
        return None
    return _WRITTEN[form](value, texts)


_WRITTEN: dict[Form, Callable[[Any, TextTable], str | int | bool | None]] = {
    Form.UUID: lambda words, _: str(uuid_of(words)),
    Form.TIME: lambda time, _: time_text(int(time)),
    Form.KIND: lambda number, _: KINDS[number],
    Form.NUMBER: lambda number, _: int(number),
    Form.DECIMAL: lambda units, _: decimal_text(int(units)),
    Form.TRUTH: lambda truth, _: bool(truth),
    Form.TEXT: lambda number, texts: texts.text(number),
}
