"""Beat: whether it runs, and what it sends is executed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from usage_worker.monitoring.check import fail
from usage_worker.monitoring.checks.processes import last_seen
from usage_worker.monitoring.inspection import BROKER, REDIS, Section
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.queue.vitals import REDIS_MEMORY_LIMIT
from usage_worker.service.process_record import COUNTING
from usage_worker.service.schedule import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Figures, Inspection

# Seconds. Two heartbeats are missing, and the second had some time.
SILENCE = 2.5 * HEARTBEAT_SECONDS
# Seconds. A shard whose oldest entry has waited for so long has a backlog.
BACKLOG_SECONDS = 2.0


def _beat(inspection: Inspection) -> Iterator[Check]:
    figures = inspection.figures
    figures.beat_seconds = silence = Heartbeat(inspection.stream.connection).age()
    figures.beat_at = None if silence is None else time.time() - silence
    if silence is not None and silence < SILENCE:
        return
    beats = [record for record in figures.processes or [] if record.process.kind == "beat"]
    uptime = max((record.process.uptime for record in beats if record.is_alive), default=None)
    if uptime is None:
        yield fail(
            "beat", "no beat runs" + last_seen(beats), "start `celery -A usage_worker beat`, or `usage-worker up`"
        )
    elif _ticks_should_arrive(figures, uptime, is_broker=inspection.is_broker):
        since = (
            "nothing that it sends was ever executed"
            if silence is None
            else f"for {silence:.0f} s nothing was executed"
        )
        yield fail("beat", f"beat runs, but {since}", "see the logs of beat and of the worker that counts")


def _ticks_should_arrive(figures: Figures, uptime: float, *, is_broker: bool) -> bool:
    """Return whether beat has run long enough, Redis has room for what it sends, and a worker has time to take that.

    Where workers flush a backlog all the time, heartbeats expire before their turn.
    """
    counting = [it.process.uptime for it in figures.alive if COUNTING in it.process.roles]
    flushes, backlog = figures.flushes or {}, figures.backlog or {}
    has_time = all(
        it.succeeded_seconds is None
        or it.succeeded_seconds >= SILENCE
        or backlog[shard].oldest_seconds < BACKLOG_SECONDS
        for shard, it in flushes.items()
    )
    has_room = not is_broker or (figures.redis_memory or 0) <= REDIS_MEMORY_LIMIT
    return has_room and has_time and bool(counting) and min(uptime, *counting) >= SILENCE


BEAT = Section(("beat",), _beat, needs=(REDIS, BROKER))
