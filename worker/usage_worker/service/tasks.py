"""The Celery tasks: a typed signature and one call each. Their names are the entry point for Celery applications."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.signals import worker_ready
from kombu.exceptions import OperationalError

from usage_worker.errors import StreamUnavailableError, UsageError
from usage_worker.ingest import FlushReport
from usage_worker.logs import get_logger
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.queue.unread import waiting_entries
from usage_worker.service import entry_point, task_options
from usage_worker.service.process_record import COUNTING, roles
from usage_worker.service.schedule import CLOCKS_DIFFER_SECONDS
from usage_worker.service.task_names import FLUSH, HEARTBEAT, TRACK, TRACK_MANY

if TYPE_CHECKING:
    from celery import Celery, Task

    from usage_worker.maintenance.registry import PeriodicTask
    from usage_worker.queue.stream import EventStream
    from usage_worker.service.resources import Resources

log = get_logger("heartbeat")

# A UsageError is an expected failure: Celery then logs one line instead of a traceback.
_OPTIONS: dict[str, Any] = task_options.OPTIONS | {
    "throws": (UsageError,),
    "Request": "usage_worker.service.request:ReadableRequest",
    # What a killed worker has not done, the next tick does.
    "acks_late": False,
    # Two days: a reconciliation may be given one.
    "least_time_limit": 172_800.0,
}
_QUIET = _OPTIONS | {
    "Request": "usage_worker.service.request:QuietRequest",
    "send_events": False,
    "least_time_limit": 600.0,
}


def register(app: Celery) -> None:
    """Add our tasks to a Celery app whose resources `install` has set."""
    app.task(flush, name=FLUSH, **_QUIET)
    app.task(entry_point.track, name=TRACK, **entry_point.OPTIONS)
    app.task(entry_point.track_many, name=TRACK_MANY, **entry_point.OPTIONS)
    app.task(heartbeat, name=HEARTBEAT, **_QUIET)
    for periodic in PERIODIC_TASKS:
        app.task(_body(periodic), name=periodic.name, **_OPTIONS)


def flush(self: Task, shard: int, token: str | None = None) -> dict[str, Any] | None:
    """Count the entries of a shard, wait up to two seconds for more, and send for the next flush."""
    resources = _resources(self)
    report = resources.flusher.flush_alone(shard, token, self.app.usage_pool.turn(resources.settings))
    if report.successor:
        send_flush(self.app, shard, report.successor)
    if report == FlushReport(shard):  # another process flushes the shard
        return None
    return flush_figures(report, resources.stream)


def flush_figures(report: FlushReport, stream: EventStream) -> dict[str, Any] | None:
    """Return what Flower shows of a flush: its figures and what waits after it; None where there is neither.

    Flower's list shows some 48 characters, so what matters most comes first.
    """
    intake = report.intake
    figures: dict[str, Any] = {"applied": intake.applied}
    with suppress(StreamUnavailableError):
        backlog = stream.backlog(report.shard)
        figures["backlog"] = backlog.entries
        figures["oldest_seconds"] = round(backlog.oldest_seconds, 1) if backlog.age_known else None
    figures |= {"quarantined": intake.quarantined, "duplicate": intake.duplicate}
    return figures | {"seconds": round(report.seconds, 3)} if any(figures.values()) else None


def begin_flushes(app: Celery) -> None:
    """Let a worker that counts send for a flush of each shard as soon as it is ready, before the first tick."""

    def begin(sender: Any, **_: object) -> None:
        if sender.app is app and COUNTING in roles(sender):
            for shard in range(app.usage_resources.settings.stream_shards):
                send_flush(app, shard)

    worker_ready.connect(begin, weak=False)


def send_flush(app: Celery, shard: int, token: str | None = None, expires: float | None = None) -> None:
    """Send for a flush, behind the tasks that wait already. Where that fails, the next tick does it.

    The messages of a chain do not expire: a round of the shards may take longer than ticks last, and without beat
    nothing would begin the chain again.
    """
    # The broker cannot be reached, or refuses the message: it is full, or gives its user no right.
    with suppress(OperationalError, *app.connection_for_write().channel_errors):
        app.tasks[FLUSH].apply_async((shard, token), expires=expires)


def heartbeat(self: Task) -> None:
    """Note that beat sends tasks and a worker executes them; look for vanished, skipped and unread entries."""
    resources = _resources(self)
    stream = resources.stream

    def look(shard: int) -> None:
        stream.vanished(shard)
        if skipped := stream.return_skipped(shard):
            log.warning("somebody made the group skip entries; they are counted now", shard=shard, entries=skipped)

    # Beat may know fewer shards than a publisher, and so may this worker, while all are restarted with another number.
    for shard in waiting_entries(stream):
        send_flush(self.app, shard, expires=resources.settings.trigger_expires + CLOCKS_DIFFER_SECONDS)

    try:
        is_first_of_minute = Heartbeat(stream.connection).beat()
    finally:  # on a Cluster, another node than those of the shards may have failed
        stream.each(look)
    if is_first_of_minute:
        stream.each(stream.sweep_consumers)


def _body(periodic: PeriodicTask) -> Any:
    def run(self: Task) -> dict[str, Any]:
        resources = _resources(self)
        return periodic.run(resources.store, resources.settings)

    run.__doc__ = periodic.run.__doc__
    return run


def _resources(task: Task) -> Resources:
    resources: Resources = task.app.usage_resources
    return resources
