"""The events of some users that wait in the streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.events.spelled_out import spelled_out
from usage_worker.events.values import read_json
from usage_worker.queue.entry import COLUMNAR, RawEntry
from usage_worker.queue.letter_parts import named_in
from usage_worker.queue.unread import waiting_entries

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.queue.stream import EventStream

_ENTRIES_AT_ONCE = 100


def waiting_events(stream: EventStream, users: AbstractSet[UUID], ids: ExternalIds) -> int:
    """Count the events of users in every shard with entries; an entry that cannot be read and names one of them is one.

    Raises:
        StreamUnavailableError: Redis cannot be asked.
    """
    return sum(_in_shard(stream, shard, users, ids) for shard in waiting_entries(stream))


def _in_shard(stream: EventStream, shard: int, users: AbstractSet[UUID], ids: ExternalIds) -> int:
    found, first = 0, "-"
    while True:
        with stream.connection.client(stream.key(shard)) as client:
            page: Any = client.xrange(stream.key(shard), min=first, count=_ENTRIES_AT_ONCE)
        found += sum(_in_entry(RawEntry(entry_id.decode(), fields), users, ids) for entry_id, fields in page)
        if len(page) < _ENTRIES_AT_ONCE:
            return found
        first = f"({page[-1][0].decode()}"


def _in_entry(raw: RawEntry, users: AbstractSet[UUID], ids: ExternalIds) -> int:
    try:
        content = read_json(raw.body or b"")
        events = spelled_out(content) if raw.version == COLUMNAR else content
        return sum(
            not users.isdisjoint(_user_of(event, ids)) for event in (events if isinstance(events, list) else [events])
        )
    except (ValueError, RecursionError):
        text = b"\n".join(raw.fields.values()).decode("utf-8", "backslashreplace")
        return int(not users.isdisjoint(named_in(text, ids)))


def _user_of(event: Any, ids: ExternalIds) -> set[UUID]:
    try:
        return {ids.of("user", event.get("user_id")).id} if isinstance(event, dict) else set()
    except ValueError:
        return set()
