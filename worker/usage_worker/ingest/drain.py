"""The drain: flush a shard until what waits in it is counted, and say why where that cannot be."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from usage_worker.errors import StreamUnavailableError, UsageError, first_line
from usage_worker.ingest.flush import FlushReport
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.last_id import id_order
from usage_worker.queue.oldest_entry import oldest_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.ingest.flush import Flusher
    from usage_worker.queue.stream import Backlog, EventStream

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What the drain of a shard counted, and what it left.

    `left` is the number of entries in the stream afterwards, None where Redis does not tell it. `problem` says why some
    are left that were there before the drain began; None where none are.
    """

    flushed: FlushReport
    left: int | None
    problem: str | None

    def as_dict(self) -> dict[str, Any]:
        return self.flushed.as_dict() | {"left": self.left, "problem": self.problem}


class Drainer:
    """Drains shards in this process, without Celery; waits for the entries of a dead worker (`USAGE_RECLAIM_IDLE`)."""

    def __init__(self, stream: EventStream, flusher: Flusher, reclaim_idle: float) -> None:
        self._stream = stream
        self._flusher = flusher
        self._reclaim_idle = reclaim_idle

    def drain(self, shard: int) -> DrainReport:
        """Count the entries of a shard; whatever is in the way is the `problem` of the report."""
        began, counted_before = time.monotonic(), self._flusher.intake
        report, left = FlushReport(shard), None
        try:
            last = self._stream.last_id(shard).entry_id
            problem = None
            try:
                for flushed in self._flushes(shard, last):
                    report = replace(flushed, batches=report.batches + flushed.batches)
            except UsageError as error:
                problem = first_line(error)
            backlog = self._stream.backlog(shard)
            left = backlog.entries
            problem = problem or self._why_left(shard, backlog, last, time.monotonic() - began)
        except StreamUnavailableError as error:
            problem = first_line(error)
        # Also what a flush counted before it failed.
        counted = self._flusher.intake - counted_before
        return DrainReport(replace(report, intake=counted, seconds=time.monotonic() - began), left, problem)

    def _flushes(self, shard: int, last: str) -> Iterator[FlushReport]:
        """Flush until the entries up to the id `last` are counted, or no flush gets any further with them."""
        began, backlog = time.monotonic(), self._stream.backlog(shard)
        # An empty shard is not read: a full Redis would refuse the consumer group that a first read creates.
        while _has_older(backlog, last):
            before, since = backlog.oldest_id, time.monotonic() - began
            self._stream.return_skipped(shard)
            report = self._flusher.flush(shard)
            yield report
            backlog = self._stream.backlog(shard)
            # The oldest entries may be those of a dead worker, which this flush could reclaim if it began late enough.
            stays = backlog.oldest_id == before and since > self._reclaim_idle + 1
            if stays and (not report.batches or id_order(backlog.read_id) >= id_order(last)):
                return
            if not report.cut_short:
                time.sleep(_POLL_SECONDS)

    def _why_left(self, shard: int, backlog: Backlog, last: str, seconds: float) -> str | None:
        """Return why entries up to the id `last` are left after a drain of so many `seconds`; None where none are."""
        if not _has_older(backlog, last):
            return None
        if (oldest := oldest_entry(self._stream, shard)) and oldest.newer:
            return f"entry {oldest.entry_id} has {oldest.newer}; upgrade this installation, then run it again"
        flush, _ = FlushRecords(self._stream.connection).read(shard)
        if flush.waited_for_rows(seconds):
            return f"waiting for locks, {flush.holders}; end that transaction, then run it again"
        return f"read by another worker; if that one is gone, run it again in {self._reclaim_idle:g} s"


def _has_older(backlog: Backlog, last: str) -> bool:
    return bool(backlog.oldest_id) and id_order(backlog.oldest_id) <= id_order(last)
