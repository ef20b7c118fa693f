"""Decode stream entries: by columns where our publisher wrote them, one by one where anything is unusual.

Both ways end in the same array of events; what is wrong becomes dead letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from usage_worker.events.columns import MAX_TOKENS, NAMES
from usage_worker.events.event import reason_against
from usage_worker.events.refusals import Refusal
from usage_worker.events.spelled_out import spelled_out
from usage_worker.events.values import read_json
from usage_worker.ingest.entries import BadEvent, DecodedEntry, describe
from usage_worker.ingest.event_array import RATING, UNKNOWN, array_of
from usage_worker.ingest.made_ids import read_made_ids
from usage_worker.ingest.objects import Objects
from usage_worker.ingest.packs import NotByColumnsError, read_pack
from usage_worker.queue.entry import OBJECTS, VERSIONS, newer_version
from usage_worker.queue.holding import DEATHS_BEFORE_SET_ASIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.events.event import Window
    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.ingest.event_array import Columns, Events, Flags, TextTable
    from usage_worker.queue.entry import RawEntry

# What an entry may hold; our publisher fills 500 events and some 100 kB. One that holds more is not decoded, since a
# decoded value takes up to 40 times its bytes.
MAX_ENTRY_BYTES = 2**24
# In all of its events together, counted by commas.
MAX_ENTRY_VALUES = 2_000_000


class Decoded(NamedTuple):
    """Decoded entries, and those that only a newer worker can read, with the reason by entry id.

    `events` are those of all entries, in one array of which each entry has a part.
    """

    entries: list[DecodedEntry]
    newer: dict[str, str]
    events: Events


class _NewerError(Exception):
    """The entry has columns that this worker does not know."""


def decode(
    stream: str,
    raws: Sequence[RawEntry],
    window: Window,
    texts: TextTable,
    *,
    backfill: Window,
    ids: ExternalIds,
    takes_any_id: bool,
) -> Decoded:
    """Decode and check entries; whatever is wrong with one becomes a dead letter.

    Args:
        stream: the key of their stream.
        raws: as they were read.
        window: the span of time in which events are accepted.
        texts: numbers for the texts of the batch.
        backfill: that of backfills.
        ids: what numbers and texts become UUIDs with.
        takes_any_id: whether they are ids in objects, too.

    Raises:
        MemoryError: another process may have room for the entries.
    """
    entries: list[DecodedEntry] = []
    newer: dict[str, str] = {}
    objects = Objects(ids if takes_any_id else None)
    parts: list[Columns] = []
    for raw in raws:
        its_window = backfill if raw.is_backfill else window
        entry, number = DecodedEntry.of(stream, raw, texts, its_window), len(entries)
        try:
            columns = _read(entry, number, objects)
        except _NewerError as error:
            newer[raw.entry_id] = str(error)
            continue
        entries.append(entry)
        if columns:
            parts.append(columns.with_notes(entry=[number] * columns.events))
    if len(objects):
        parts.append(objects.columns(texts))
    events = _share_out(array_of(parts), entries)
    for entry in entries:
        if entry.raw.ids is not None and entry.is_readable:
            _read_ids(entry, entry.raw.ids, ids)
    return Decoded(entries, newer, events)


def _read_ids(entry: DecodedEntry, field: bytes, ids: ExternalIds) -> None:
    # Those of its dead letters, too: these have the UUIDs.
    events = len(entry.events) + sum(dead_letter.events for dead_letter in entry.dead_letters)
    made, entry.ids_problem = read_made_ids(field, ids, events)
    entry.made += made


def _read(entry: DecodedEntry, number: int, objects: Objects) -> Columns | None:
    """Return the events of an entry by columns, or add them to the objects; what is wrong becomes dead letters.

    Raises:
        _NewerError: only a newer worker can read it.
    """
    raw = entry.raw
    if raw.deaths >= DEATHS_BEFORE_SET_ASIDE:
        _unreadable(entry, Refusal.SET_ASIDE.text)
        return None
    if version := newer_version(raw):
        raise _NewerError(f"version {version}")
    if raw.version not in VERSIONS:
        _unreadable(entry, Refusal.UNKNOWN_VERSION.text)
        return None
    try:
        return _read_body(entry, number, raw.body or b"", objects)
    except (MemoryError, _NewerError):
        raise
    except Exception as error:  # noqa: BLE001 - one entry must not stop its shard, whatever it is
        _unreadable(entry, Refusal.UNREADABLE.of(describe(error)))
        return None


def _read_body(entry: DecodedEntry, number: int, body: bytes, objects: Objects) -> Columns | None:
    if len(body) > MAX_ENTRY_BYTES:
        raise ValueError(f"more than {MAX_ENTRY_BYTES} bytes")
    if len(body) > MAX_ENTRY_VALUES and body.count(b",") > MAX_ENTRY_VALUES:
        raise ValueError(f"more than {MAX_ENTRY_VALUES} values")
    if entry.raw.version == OBJECTS:
        items = read_json(body)
        if not isinstance(items, list):
            raise ValueError("must be a JSON array")
        objects.add(entry, number, items)
        return None
    try:
        columns = read_pack(body, entry.texts)
    except NotByColumnsError:
        content = read_json(body)
        if isinstance(content, dict) and (unknown := content.keys() - NAMES):
            raise _NewerError(f"column {min(unknown):.100}") from None
        objects.add(entry, number, spelled_out(content))
        return None
    if entry.raw.times_are_the_publishers:
        return columns.with_notes(is_untimed=[True] * columns.events)
    return columns


def _share_out(events: Events, entries: Sequence[DecodedEntry]) -> Events:
    """Give each entry its events; refuse those that are not accepted although each of their values is valid.

    Returns the accepted ones.
    """
    _complete(events)
    bad = _bad(events, entries)
    good = events[~bad] if bad.any() else events
    places = np.searchsorted(good["entry"], np.arange(len(entries) + 1))
    for entry, start, end in zip(entries, places, places[1:], strict=False):
        entry.events = good[start:end]
    _refuse(entries, events[bad])
    for entry in entries:
        if not len(entry.events) and not entry.dead_letters:
            _unreadable(entry, Refusal.UNREADABLE.of("the entry holds no event"))
    return good


def _complete(events: Events) -> None:
    """Fill in the tokens where they are the sum."""
    tokens = events["tokens"]
    events["tokens"] = np.where(tokens == UNKNOWN, events["input_tokens"] + events["output_tokens"], tokens)


def _bad(events: Events, entries: Sequence[DecodedEntry]) -> Flags:
    """Return which events are not accepted although each of their values is valid, as `reason_against` says."""
    times, numbers = events["occurred_at"], events["entry"]
    oldest, newest = np.array([entry.window[:2] for entry in entries], np.int64).reshape(-1, 2).T
    is_misplaced = (events["type"] == RATING) != (events["rating"] != UNKNOWN)
    is_outside = (times < oldest[numbers]) | (times > newest[numbers])
    bad: Flags = is_outside | is_misplaced | (events["tokens"] > MAX_TOKENS)
    return bad


def _refuse(entries: Sequence[DecodedEntry], events: Events) -> None:
    """Add the dead letters of events, which are in the order of their entries."""
    bad: dict[int, list[BadEvent]] = {}
    for event in events:
        number = int(event["entry"])
        reason = reason_against(
            int(event["occurred_at"]),
            int(event["tokens"]),
            entries[number].window,
            is_rating=event["type"] == RATING,
            has_rating=event["rating"] != UNKNOWN,
        )
        bad.setdefault(number, []).append(entries[number].bad_event(event, reason or ""))
    for number, found in bad.items():
        entry = entries[number]
        entry.refuse_events(found, are_all=not len(entry.events))


def _unreadable(entry: DecodedEntry, reason: str) -> None:
    entry.is_readable = False
    entry.dead_letters = []
    entry.refuse_raw(reason, entry.raw.declared)
