"""The shards: whether what waits in them is counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import KeyTakenError, StreamUnavailableError
from usage_worker.monitoring.check import fail, warn
from usage_worker.monitoring.inspection import REDIS, Section
from usage_worker.monitoring.remedies import explained
from usage_worker.queue.claim import CLAIM_SECONDS
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.oldest_entry import oldest_entry

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection
    from usage_worker.queue.flush_record import FlushRecord
    from usage_worker.queue.oldest_entry import OldestEntry
    from usage_worker.queue.stream import Backlog
    from usage_worker.settings import Settings

# Seconds that the largest batch may take, with room: it is made for eight, and took twelve on a slow machine.
BATCH_SECONDS = 20.0
# Seconds within which a small batch is counted once a worker may take it.
_SMALL_BATCH_SECONDS = 5.0
# An entry that is read more often has ended, or failed, several batches; until then it may be in the hands of the next.
_MOST_DELIVERIES = 3
_LOG = "see the log of the worker that counts; an outage of the workers is bridged by `usage-worker drain`"


class _Shard(NamedTuple):
    number: int
    backlog: Backlog
    flush: FlushRecord
    oldest: OldestEntry | None


def _shards(inspection: Inspection) -> Iterator[Check]:
    figures, settings = inspection.figures, inspection.settings
    numbers = range(figures.shards or inspection.stream.shards)
    shards = yield from _read(inspection, numbers)
    patience = _patience(len(numbers), shards, settings)
    for shard in shards:
        yield from _failing(shard, settings)
        yield from _held(shard, settings)
        if shard.oldest is not None:
            for problem in _waiting(shard, shard.oldest, patience, settings):
                figures.is_waiting = True
                yield problem


def _read(inspection: Inspection, numbers: range) -> Generator[Check, None, list[_Shard]]:
    """Return what is known of the shards, and fail for those that cannot be read."""
    figures, stream = inspection.figures, inspection.stream
    records = FlushRecords(stream.connection)
    figures.backlog, figures.flushes, figures.counters = {}, {}, {}
    servers = stream.connection.by_server([stream.key(number) for number in numbers])
    server_of = {place: server for server, places in servers.items() for place in places}
    down: dict[str, StreamUnavailableError] = {}
    shards: list[_Shard] = []
    for number in numbers:
        try:
            # Each shard of a node that does not answer would wait for it again.
            if error := down.get(server_of[number]):
                raise error
            backlog = figures.backlog[number] = stream.backlog(number)
            flush, figures.counters[number] = records.read(number)
            figures.flushes[number] = flush
            shards.append(_Shard(number, backlog, flush, oldest_entry(stream, number)))
        except KeyTakenError as error:
            yield _unread(number, error)
        except StreamUnavailableError as error:
            if stream.connection.kind != "cluster":
                raise
            down[server_of[number]] = error
            yield _unread(number, error)
    return shards


def _unread(number: int, error: StreamUnavailableError) -> Check:
    reason, remedy = explained(error)
    meanwhile = "events of this shard wait with the publishers meanwhile"
    return fail("flush", f"shard {number}: {reason}", f"{remedy}; {meanwhile}")


def _patience(count: int, shards: list[_Shard], settings: Settings) -> float:
    """Return for how many seconds a shard may count nothing.

    Where another one was counted lately, there may be fewer processes than shards: then each has a turn in every round.
    """
    counted = (shard.flush.counted_seconds for shard in shards)
    if any(seconds is not None and seconds <= BATCH_SECONDS for seconds in counted):
        return count * (settings.flush_budget + BATCH_SECONDS)
    return BATCH_SECONDS


def _failing(shard: _Shard, settings: Settings) -> Iterator[Check]:
    """Fail where flushes fail. One that does, as in a failover, ends its chain: the next tick tries the batch again."""
    flush, silence = shard.flush, shard.flush.succeeded_seconds
    if flush.is_failing and (silence is None or silence > settings.flush_interval + BATCH_SECONDS):
        since = "none ever succeeded" if silence is None else f"none has succeeded for {silence:.0f} s"
        reason = f"shard {shard.number}: {flush.failed_seconds:.0f} s ago a flush failed, and {since}: {flush.error}"
        yield fail("flush", reason, "fix what the error names; the entries wait in Redis meanwhile")


def _held(shard: _Shard, settings: Settings) -> Iterator[Check]:
    """Warn until the events that wait for held rows should have been delivered again, and counted."""
    if shard.flush.waited_for_rows(2 * settings.reclaim_idle):
        held = f"events wait for locks, {shard.flush.holders}; the others are counted"
        remedy = "end that transaction; the events are counted by themselves afterwards"
        yield warn("held_rows", f"shard {shard.number}: {held}", remedy)


def _waiting(shard: _Shard, oldest: OldestEntry, patience: float, settings: Settings) -> Iterator[Check]:
    backlog, flush = shard.backlog, shard.flush
    if oldest.newer:
        reason = f"shard {shard.number}: entry {oldest.entry_id} has {oldest.newer}"
        yield fail("wire_version", reason, "upgrade the workers; the entries wait meanwhile")
        return
    silence = math.inf if flush.counted_seconds is None else flush.counted_seconds
    # Where the age is unknown, the entry has waited since the last commit at most, and may have waited so long.
    age = backlog.oldest_seconds if backlog.age_known else silence
    if age <= longest_wait(settings) or _is_in_hand(oldest, flush):
        return
    # A backlog that shrinks is healthy, however old it is. Delivered again, and in nobody's hand, an entry is stuck.
    if oldest.deliveries <= 1 and min(silence, age) <= patience:
        return
    counted = "nothing was ever counted" if silence == math.inf else f"the last batch was counted {silence:.0f} s ago"
    waits = f"the oldest of {backlog.entries:,} entries, {oldest.entry_id}, has waited {backlog.oldest_seconds:.0f} s"
    delivered = f"; it was delivered {oldest.deliveries} times" if oldest.deliveries > 1 else ""
    failed = f"; {flush.failed_seconds:.0f} s ago a flush failed: {flush.error}" if _failed_since(flush, age) else ""
    yield fail("oldest_entry", f"shard {shard.number}: {waits}; {counted}{delivered}{failed}", _LOG)


def longest_wait(settings: Settings) -> float:
    """Return the seconds within which every entry is counted where none waits before it, also one of a dead worker.

    Its entries may then be reclaimed, and after its claim has expired a tick lets another worker flush the shard.
    """
    return max(settings.reclaim_idle, CLAIM_SECONDS + settings.flush_interval) + _SMALL_BATCH_SECONDS


def _failed_since(flush: FlushRecord, age: float) -> bool:
    """Return whether a flush has failed while the entry waited; others may have found nothing to count since."""
    return flush.failed_seconds is not None and flush.failed_seconds < age


def _is_in_hand(oldest: OldestEntry, flush: FlushRecord) -> bool:
    """Return whether the batch of the entry is probably being counted.

    It was delivered lately, and no flush has failed, or left events to wait for held rows, since then.
    """
    ended = _failed_since(flush, oldest.idle_seconds) or flush.waited_for_rows(oldest.idle_seconds)
    return 1 <= oldest.deliveries <= _MOST_DELIVERIES and oldest.idle_seconds <= BATCH_SECONDS and not ended


SHARDS = Section(("flush", "oldest_entry", "wire_version", "held_rows"), _shards, needs=(REDIS,))
