"""The streams themselves: entries that vanished, and ids that a producer chose in the future."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import REDIS, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

# How long vanished entries are a problem, in seconds: nothing brings them back, and the figure stays.
VANISHED_SECONDS = 3600.0
_PREVENT_LOSS = "set USAGE_REDIS_REPLICAS=1 for publishers; docs/redis-failover.md says what it costs"
_FIND_CAUSE = "look for XTRIM, MAXLEN, XDEL and DEL of other programs, or eviction"


def _streams(inspection: Inspection) -> Iterator[Check]:
    figures, stream = inspection.figures, inspection.stream
    # Of a shard without a backlog, the key is not a stream, or its node of a Cluster does not answer.
    shards = list(figures.backlog or ())
    vanished = {shard: stream.vanished(shard, keep=inspection.keeps) for shard in shards}
    figures.vanished = {shard: it.entries for shard, it in vanished.items()}
    for shard, it in vanished.items():
        if it.entries and it.seconds is not None and it.seconds < VANISHED_SECONDS:
            reason = f"shard {shard}: {it.entries:,} entries vanished uncounted, the last {it.seconds:.0f} s ago"
            if it.lost:
                reason += f"; {it.lost:,} of them were lost in a failover or a restart of Redis"
            yield fail("vanished_entries", reason, _PREVENT_LOSS if it.lost == it.entries else _FIND_CAUSE)
    for shard in shards:
        if (last := stream.last_id(shard)).in_future:
            yield fail("future_ids", f"shard {shard}: {last.reason}", last.remedy)


STREAMS = Section(("vanished_entries", "future_ids"), _streams, needs=(REDIS, "replica"))
