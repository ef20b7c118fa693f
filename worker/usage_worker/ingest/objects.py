"""Events that are read one by one: objects with the fields of `Event`, from anybody, in any notation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid5

from usage_worker.events.columns import MAX_ENTRY_EVENTS
from usage_worker.events.event import EVENT, identity_of, microseconds, refusal, refusal_of_size, row_of, values_of
from usage_worker.events.external_ids import IdReader
from usage_worker.events.values import write_json
from usage_worker.ingest.entries import MAX_LETTERS, BadEvent, describe
from usage_worker.ingest.packs import columns_of
from usage_worker.queue.entry import OBJECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.events.columns import Row
    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.event_array import Columns, TextTable


class _Taken(NamedTuple):
    """A checked event, and what the batch notes about it."""

    row: Row
    entry: int
    position: int
    is_anonymous: bool
    is_untimed: bool


class Objects:
    """Checked events of several entries; with `ids` theirs may be numbers and texts."""

    def __init__(self, ids: ExternalIds | None) -> None:
        self._ids = ids
        self._taken: list[_Taken] = []

    def __len__(self) -> int:
        return len(self._taken)

    def add(self, entry: DecodedEntry, number: int, items: Sequence[Any]) -> None:
        """Add the events of an entry, given its number; refuse those that cannot be read.

        Raises:
            ValueError: there are too many.
        """
        if len(items) > MAX_ENTRY_EVENTS:
            raise ValueError(f"more than {MAX_ENTRY_EVENTS} events")
        taken: list[_Taken] = []
        bad: list[BadEvent] = []
        for position, item in enumerate(items):
            try:
                checked = refusal_of_size(item) or self._check(entry, number, position, item)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - one event must not stop its neighbours, whatever it is
                # Not of those that share a letter: it names the first reason only, and describing takes longest.
                checked = describe(error) if len(bad) <= MAX_LETTERS else "..."
            if isinstance(checked, _Taken):
                taken.append(checked)
                continue
            if entry.raw.times_are_the_publishers and isinstance(item, dict):
                # Like the events of dead letters: a replay must not take the publisher's time for the application's.
                item.pop("occurred_at", None)
            bad.append(BadEvent(position, checked, write_json(item)))
        entry.refuse_events(bad, are_all=not taken)
        # At the end: whatever fails before, the entry is quarantined as a whole.
        self._taken += taken

    def columns(self, texts: TextTable) -> Columns:
        """Return all events by columns."""
        rows, entries, positions, are_anonymous, are_untimed = zip(*self._taken, strict=True)
        return columns_of(rows, texts).with_notes(
            entry=entries, position=positions, is_anonymous=are_anonymous, is_untimed=are_untimed
        )

    def _check(self, entry: DecodedEntry, number: int, position: int, item: Any) -> _Taken | str:
        """Return an event, or why it is not accepted.

        An event without identity or time gets them from its entry, so that they are the same when it is read again.
        """
        # Only our publisher writes columns, and it makes the UUIDs itself.
        reader = IdReader(self._ids) if self._ids and entry.raw.version == OBJECTS else None
        values = values_of(EVENT.validate_python(item, context=reader))
        if reason := refusal(values, entry.window):
            return reason
        event_id, occurred_at, *_ = values
        if occurred_at is None and entry.raw.is_backfill:
            return "occurred_at: an event of a backfill needs its own time"
        time = microseconds(entry.raw.added_at if occurred_at is None else occurred_at)
        if occurred_at is None and (reason := entry.window.refusal(time)):
            return f"{reason}, by the entry's id, since the event has no time of its own"
        identity = uuid5(entry.key, str(position)) if event_id is None else identity_of(event_id)
        has_time = occurred_at is not None and not entry.raw.times_are_the_publishers
        row = row_of(values, identity, time)
        if reader:
            entry.made += reader.made
        return _Taken(row, number, position, event_id is None, event_id is not None and not has_time)
