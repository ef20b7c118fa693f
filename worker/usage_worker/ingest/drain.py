"""The drain: flush a shard until what waits in it is counted, and say why where that cannot be."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from usage_worker.errors import StreamUnavailableError, UsageError, first_line
from usage_worker.ingest.flush import FlushReport
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.oldest_entry import oldest_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.ingest.flush import Flusher
    from usage_worker.queue.stream import Backlog, EventStream

# Where nothing more can be counted, a drain ends as soon as the entries of a dead worker would have been reclaimed.
_LONGEST_SECONDS = 3600.0
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
        began, report = time.monotonic(), FlushReport(shard)
        left: int | None = None
        problem: str | None = None
        try:
            for more in self._flushes(shard, began):
                report = replace(more, batches=report.batches + more.batches, intake=report.intake + more.intake)
        except UsageError as error:
            problem = first_line(error)
        try:
            backlog = self._stream.backlog(shard)
            left = backlog.entries
            problem = problem or self._why_left(shard, backlog, time.monotonic() - began)
        except StreamUnavailableError as error:
            problem = problem or first_line(error)
        return DrainReport(replace(report, seconds=time.monotonic() - began), left, problem)

    def _flushes(self, shard: int, began: float) -> Iterator[FlushReport]:
        """Flush until what was there at the start is counted; with steady traffic, a shard is never empty."""
        if not self._stream.backlog(shard).entries:
            return  # a full Redis would refuse the consumer group that a first read creates
        while True:
            self._stream.return_skipped(shard)
            report = self._flusher.flush(shard)
            yield report
            seconds = time.monotonic() - began
            if not _has_older(self._stream.backlog(shard), seconds):
                return
            if seconds > (_LONGEST_SECONDS if report.cut_short else self._reclaim_idle + 1):
                return
            if not report.cut_short:
                time.sleep(_POLL_SECONDS)

    def _why_left(self, shard: int, backlog: Backlog, seconds: float) -> str | None:
        """Return why entries are left that are older than the drain, which took so many `seconds`."""
        if not _has_older(backlog, seconds):
            return None
        if (oldest := oldest_entry(self._stream, shard)) and oldest.newer:
            return f"entry {oldest.entry_id} has {oldest.newer}; upgrade this installation, then run it again"
        flush, _ = FlushRecords(self._stream.connection).read(shard)
        if flush.waits_for_rows(self._reclaim_idle):
            return f"waiting for rows of user_agents, {flush.holders}; end that transaction, then run it again"
        if backlog.pending:
            return f"read by another worker; if that one is gone, run it again in {self._reclaim_idle:g} s"
        return "the time limit was reached; run it again"


def _has_older(backlog: Backlog, seconds: float) -> bool:
    """Return whether an entry has waited for so many seconds, or may have."""
    return bool(backlog.entries) and (backlog.oldest_seconds >= seconds or not backlog.age_known)
