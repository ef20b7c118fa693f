"""Find stalled shards: entries wait, and none is counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usage_worker.queue.failure import FlushFailures
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usage_worker.queue.stream import Backlog, EventStream
    from usage_worker.store import Store

# Seconds. By default the entries of a dead worker wait 15 s (USAGE_RECLAIM_IDLE), and a tick comes each second.
LONGEST_WAIT = 60.0
LONGEST_SILENCE = 30.0


@dataclass(frozen=True, slots=True)
class Stall:
    """A stalled shard.

    `oldest_seconds` is the age of its oldest entry, `committed_seconds` the time since its last commit (None if there
    was none). `error` is the failure of its last flush, `error_seconds` ago; None if no failure was recorded lately.
    """

    shard: int
    oldest_seconds: float
    committed_seconds: float | None
    error: str | None
    error_seconds: float | None


def stalls(stream: EventStream, store: Store, backlog: Mapping[int, Backlog], flush_interval: float) -> list[Stall]:
    """Return the stalled shards; where the flush interval is long, entries may wait for two flushes."""
    longest_wait = max(LONGEST_WAIT, 2 * flush_interval)
    committed = {row["stream"]: row["seconds"] for row in store.rows(query("last_commits"))}
    failures = FlushFailures(stream.connection)
    found = []
    for shard, waiting in backlog.items():
        silence = committed.get(stream.key(shard))
        # Where the age is unknown, an entry has waited since the last commit at most, and may have waited so long.
        waited = waiting.oldest_seconds if waiting.age_known else math.inf if silence is None else silence
        if is_stalled(waited, silence, longest_wait):
            error, error_seconds = failures.last(shard) or (None, None)
            found.append(Stall(shard, waiting.oldest_seconds, silence, error, error_seconds))
    return found


def is_stalled(
    oldest_seconds: float,
    committed_seconds: float | None,
    longest_wait: float = LONGEST_WAIT,
    longest_silence: float = LONGEST_SILENCE,
) -> bool:
    """Return whether the oldest entry waits too long and the last commit is too old; a backlog alone is no stall."""
    return oldest_seconds > longest_wait and (committed_seconds is None or committed_seconds > longest_silence)
