"""Shards of which nothing is counted although entries wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usage_worker.queue.failure import FlushFailures
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usage_worker.queue.stream import Backlog, EventStream
    from usage_worker.store import Store

# Seconds. A worker that dies leaves its entries for 15 s, and a flush is sent at least every 10 s.
LONGEST_WAIT = 60.0
LONGEST_SILENCE = 30.0


@dataclass(frozen=True, slots=True)
class Stall:
    """A stalled shard; `error` is what its last flush failed of, None where no failure was noted lately.

    The others are seconds: the age of its oldest entry, since its last commit (None: there never was one) and since
    the error.
    """

    shard: int
    oldest_seconds: float
    committed_seconds: float | None
    error: str | None
    error_seconds: float | None


def stalls(stream: EventStream, store: Store, backlog: Mapping[int, Backlog], flush_interval: float) -> list[Stall]:
    """The stalled shards; where flushes are meant to be rare, entries may wait for two of them."""
    longest_wait = max(LONGEST_WAIT, 2 * flush_interval)
    committed = {row["stream"]: row["seconds"] for row in store.rows(query("last_commits"))}
    failures = FlushFailures(stream.connection)
    found = []
    for shard, waiting in backlog.items():
        silence = committed.get(stream.key(shard))
        if is_stalled(waiting.oldest_seconds, silence, longest_wait):
            error, error_seconds = failures.last(shard) or (None, None)
            found.append(Stall(shard, waiting.oldest_seconds, silence, error, error_seconds))
    return found


def is_stalled(
    oldest_seconds: float,
    committed_seconds: float | None,
    longest_wait: float = LONGEST_WAIT,
    longest_silence: float = LONGEST_SILENCE,
) -> bool:
    """Whether the oldest entry waits too long, and the last commit is too long ago; a backlog alone is no stall."""
    return oldest_seconds > longest_wait and (committed_seconds is None or committed_seconds > longest_silence)
