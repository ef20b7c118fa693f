"""The events of dead letters, as they lie in the payload: one, some of an entry, or all of a whole entry."""

from __future__ import annotations

import json
import re
from itertools import count
from typing import TYPE_CHECKING, Any

from usage_worker.events.spelled_out import spelled_out
from usage_worker.events.values import read_json
from usage_worker.queue.entry import COLUMNAR, RawEntry, key_of, reused_key
from usage_worker.queue.kept import is_cut, restored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The beginning of the payload that events share (`DecodedEntry.refuse_events`); an event of one letter may look alike.
_SHARED = re.compile(r'\{"positions": (\[[0-9, ]++\]), "events": \[')

DeadLetterRow = dict[str, Any]
"""A row of `usage_dead_letters`, by column."""


def restore(dead_letter: DeadLetterRow) -> dict[bytes, bytes]:
    """Return the fields of the stream entry whose dead letter this is, exactly as they were; XADD takes them.

    Raises:
        ValueError: it is the dead letter of events of an entry, or of an entry that was too large to be kept whole.
    """
    payload, stream, entry_id, entry_key, events = (
        dead_letter[name] for name in ("payload", "stream", "entry_id", "entry_key", "events")
    )
    fields = restored(payload, stream, entry_id, entry_key, events)
    # An event may have the names and the texts of an entry's fields, but not its key, which depends on them.
    raw = RawEntry(entry_id, fields)
    key = key_of(stream, raw)
    if entry_key not in (key, reused_key(key, raw.contents)):
        raise ValueError("is not a whole entry")
    return fields


def placed_events(dead_letter: DeadLetterRow, body: str | None = None) -> list[tuple[int | str, Any]]:
    """Return the events of a dead letter, or of a body instead of it, with their places in the entry.

    Raises:
        ValueError, RecursionError: they are not JSON.
    """
    shared = _SHARED.match(dead_letter["payload"]) if dead_letter["events"] > 1 else None
    if body is not None:
        content = read_json(body)
    elif shared:
        content = read_json(dead_letter["payload"])["events"]
    else:
        content = _content(dead_letter)
    events = content if isinstance(content, list) else [content]
    if shared:
        positions = json.loads(shared[1])
    elif _is_whole(dead_letter):
        # Also where some of its events were counted, so that the letter stands for fewer, or its producer said fewer.
        positions = range(max(len(events), 1))
    else:
        first = int(dead_letter["position"])
        positions = range(first, first + dead_letter["events"])
    return list(zip(_places(positions), events, strict=False))


def _is_whole(dead_letter: DeadLetterRow) -> bool:
    """Return whether this is the dead letter of a whole entry, whose first event has the position 0."""
    payload = dead_letter["payload"]
    is_plain = not payload.startswith("{")
    if int(dead_letter["position"]) if is_plain else '"events"' not in payload:
        return False  # a plain body stands at position 0
    try:
        fields = restore(dead_letter)
    except ValueError:
        return is_cut(payload) and '"v": "' in payload
    # An event that is a list looks like a plain body, with an id that nobody gave.
    return not is_plain or dead_letter["events"] > 1 or b"id" not in fields


def _places(positions: Sequence[int]) -> Iterator[int | str]:
    """Yield the positions of a dead letter, then places that no event of the entry has.

    The next positions are those of its neighbours, and another event with the identity of one would be a duplicate.
    """
    yield from positions
    yield from (f"{positions[0]}.{number}" for number in count(1))


def _content(dead_letter: DeadLetterRow) -> Any:
    """Return the event or the events of a dead letter that is not shared.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    content = read_json(dead_letter["payload"])
    if not isinstance(content, dict) or "events" not in content:
        return content
    try:
        fields = restore(dead_letter)
    except ValueError:
        if is_cut(dead_letter["payload"]):
            raise
        return content  # an event with a field of this name
    raw, content = RawEntry("0-0", fields), read_json(fields[b"events"])
    if raw.version == COLUMNAR:
        content = spelled_out(content)
    if raw.times_are_the_publishers and isinstance(content, list):
        content = list(map(_without_time, content))
    return content


def _without_time(item: Any) -> Any:
    """Leave out a time that the publisher gave, so that the first time of the event's key counts."""
    return {name: value for name, value in item.items() if name != "occurred_at"} if isinstance(item, dict) else item
