"""The oldest entry of a shard: what keeps it from being counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import ResponseError

from usage_worker.queue.stream import GROUP, RawEntry, newer_version

if TYPE_CHECKING:
    from usage_worker.queue.stream import EventStream


class OldestEntry(NamedTuple):
    """The oldest entry; `deliveries` is how often workers have read it, the last time `idle_seconds` ago.

    `newer_version` is its version where that is newer than ours, so that it waits for newer workers.
    """

    entry_id: str
    deliveries: int
    idle_seconds: float
    newer_version: int | None


def oldest_entry(stream: EventStream, shard: int) -> OldestEntry | None:
    """Return the oldest entry of a shard, None where it is empty.

    Raises:
        StreamUnavailableError: Redis did not answer.
    """
    key = stream.key(shard)
    with stream.connection.client() as client:
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
    deliveries, idle = (pending[0]["times_delivered"], pending[0]["time_since_delivered"]) if pending else (0, 0)
    oldest = RawEntry(entry_id.decode(), fields)
    return OldestEntry(oldest.entry_id, deliveries, idle / 1000, newer_version(oldest))
