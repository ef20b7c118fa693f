"""The shards: whether what waits in them is counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from usage_worker.errors import ForeignKeyError, StreamUnavailableError
from usage_worker.monitoring.check import fail, warn
from usage_worker.monitoring.inspection import REDIS, Section
from usage_worker.queue.claim import CLAIM_SECONDS
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.oldest_entry import oldest_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection
    from usage_worker.queue.flush_record import FlushRecord
    from usage_worker.queue.oldest_entry import OldestEntry
    from usage_worker.queue.stream import Backlog
    from usage_worker.settings import Settings

# Seconds. A flush that fails once, as in a failover, is not a problem yet.
FAILING_SECONDS = 10.0
# Seconds that the largest batch may take, or an entry after its delivery.
SILENCE_SECONDS = 20.0
STUCK_SECONDS = 5.0
_LOG = "see the log of the worker that counts; an outage of the workers is bridged by `usage-worker drain`"


def _shards(inspection: Inspection) -> Iterator[Check]:
    figures, stream = inspection.figures, inspection.stream
    shards = range(figures.shards or stream.shards)
    records = FlushRecords(stream.connection)
    figures.backlog, figures.flushes, figures.counters = {}, {}, {}
    servers = stream.connection.by_server([stream.key(shard) for shard in shards])
    server_of = {place: server for server, places in servers.items() for place in places}
    down: dict[str, StreamUnavailableError] = {}
    for shard in shards:
        try:
            # Each shard of a node that does not answer would wait for it again.
            if error := down.get(server_of[shard]):
                raise error
            backlog = figures.backlog[shard] = stream.backlog(shard)
            flush, figures.counters[shard] = records.read(shard)
            figures.flushes[shard] = flush
        except ForeignKeyError as error:
            yield fail("flush", str(error), "events of this shard wait with the publishers meanwhile")
            continue
        except StreamUnavailableError as error:
            if stream.connection.kind != "cluster":
                raise
            down[server_of[shard]] = error
            yield fail("flush", f"shard {shard}: {error}", "events of this shard wait with the publishers meanwhile")
            continue
        yield from _failing(shard, flush)
        yield from _held(shard, flush, inspection.settings)
        if (oldest := oldest_entry(stream, shard)) is not None:
            for problem in _waiting(shard, oldest, backlog, flush, inspection.settings):
                figures.is_waiting = True
                yield problem


def _failing(shard: int, flush: FlushRecord) -> Iterator[Check]:
    silence = flush.succeeded_seconds
    if flush.is_failing and (silence is None or silence > FAILING_SECONDS):
        since = "none ever succeeded" if silence is None else f"none has succeeded for {silence:.0f} s"
        reason = f"shard {shard}: {flush.failed_seconds:.0f} s ago a flush failed, and {since}: {flush.error}"
        yield fail("flush", reason, "mend what the error names; the entries wait in Redis meanwhile")


def _held(shard: int, flush: FlushRecord, settings: Settings) -> Iterator[Check]:
    """Warn until the events that wait for held rows should have been delivered again, and counted."""
    if flush.waited_for_rows(2 * settings.reclaim_idle):
        reason = f"shard {shard}: events wait for rows of user_agents, {flush.holders}; the others are counted"
        yield warn("held_rows", reason, "end that transaction; the events are counted by themselves afterwards")


def _waiting(
    shard: int, oldest: OldestEntry, backlog: Backlog, flush: FlushRecord, settings: Settings
) -> Iterator[Check]:
    if oldest.newer:
        reason = f"shard {shard}: entry {oldest.entry_id} has {oldest.newer}"
        yield fail("wire_version", reason, "upgrade the workers; the entries wait meanwhile")
        return
    silence = math.inf if flush.counted_seconds is None else flush.counted_seconds
    # Where the age is unknown, the entry has waited since the last commit at most, and may have waited so long.
    age = backlog.oldest_seconds if backlog.age_known else silence
    if age <= longest_wait(settings) or (silence <= SILENCE_SECONDS and not _is_stuck(oldest)):
        return
    counted = "nothing was ever counted" if silence == math.inf else f"the last batch was counted {silence:.0f} s ago"
    waits = f"the oldest of {backlog.entries:,} entries, {oldest.entry_id}, has waited {backlog.oldest_seconds:.0f} s"
    delivered = f"; it was delivered {oldest.deliveries} times" if oldest.deliveries > 1 else ""
    failed = f"; {flush.failed_seconds:.0f} s ago a flush failed: {flush.error}" if _failed_since(flush, age) else ""
    yield fail("oldest_entry", f"shard {shard}: {waits}; {counted}{delivered}{failed}", _LOG)


def longest_wait(settings: Settings) -> float:
    """Return the seconds within which every entry is counted, also one of a worker that has died.

    Its entries may then be reclaimed, and after its claim has expired a tick lets another worker flush the shard.
    """
    return max(settings.reclaim_idle, CLAIM_SECONDS + settings.flush_interval) + STUCK_SECONDS


def _failed_since(flush: FlushRecord, age: float) -> bool:
    """Return whether a flush has failed while the entry waited; others may have found nothing to count since."""
    return flush.failed_seconds is not None and flush.failed_seconds < age


def _is_stuck(oldest: OldestEntry) -> bool:
    """Return whether the entry keeps being delivered; a backlog that shrinks is not stuck, however old it is."""
    return oldest.deliveries > 2 or (oldest.deliveries == 2 and oldest.idle_seconds > STUCK_SECONDS)  # noqa: PLR2004


SHARDS = Section(("flush", "oldest_entry", "wire_version", "held_rows"), _shards, needs=(REDIS,))
