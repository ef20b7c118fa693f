"""The oldest entry of a shard: what keeps it from being counted."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import ResponseError

from usage_worker.events.columns import NAMES
from usage_worker.printable import printable
from usage_worker.queue.entry import VERSIONS, RawEntry, newer_version
from usage_worker.queue.stream import GROUP, WAITING

if TYPE_CHECKING:
    from usage_worker.queue.stream import EventStream


class OldestEntry(NamedTuple):
    """The oldest entry; `deliveries` is how often workers have read it, the last time `idle_seconds` ago.

    `newer` is what these workers cannot read in it, so that it waits for newer ones, or an empty string.
    """

    entry_id: str
    deliveries: int
    idle_seconds: float
    newer: str


def oldest_entry(stream: EventStream, shard: int) -> OldestEntry | None:
    """Return the oldest entry of a shard, None where it is empty.

    Raises:
        StreamUnavailableError: Redis did not answer.
    """
    key = stream.key(shard)
    with stream.connection.client(key) as client:
        entries: Any = client.xrange(key, count=1)
        if not entries:
            return None
        entry_id, fields = entries[0]
        try:
            pending: Any = client.xpending_range(key, GROUP, entry_id, entry_id, 1)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            pending = []
    consumer, deliveries, idle = (
        (pending[0]["consumer"], pending[0]["times_delivered"], pending[0]["time_since_delivered"])
        if pending
        else (b"", 0, 0)
    )
    oldest = RawEntry(entry_id.decode(), fields)
    newer = _newer(oldest, is_left=consumer == WAITING.encode())
    return OldestEntry(oldest.entry_id, deliveries, idle / 1000, newer)


def _newer(entry: RawEntry, *, is_left: bool) -> str:
    """Return what only newer workers can read in an entry; `is_left` where a worker has left it to them."""
    if (version := newer_version(entry)) is not None:
        return f"version {version}, and these workers read up to {VERSIONS[-1].decode()}"
    if not is_left:
        return ""
    unknown: list[str] = []
    with suppress(ValueError, RecursionError):
        unknown = sorted(set(json.loads(entry.body or b"{}")) - set(NAMES))
    return f"columns that these workers do not know ({printable(', '.join(unknown))})"
