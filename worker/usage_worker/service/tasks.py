"""The Celery tasks: a typed signature and one call each. Their names are the entry point for Celery applications."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from usage_worker.errors import UsageError
from usage_worker.logs import get_logger
from usage_worker.maintenance import PERIODIC_TASKS
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.service import entry_point

if TYPE_CHECKING:
    from celery import Celery, Task

    from usage_worker.maintenance import PeriodicTask
    from usage_worker.service.resources import Resources

log = get_logger("heartbeat")

# A UsageError is an expected failure: Celery then logs one line instead of a traceback.
_OPTIONS: dict[str, Any] = {"bind": True, "shared": False, "throws": (UsageError,)}


def register(app: Celery) -> None:
    """Add our tasks to a Celery app whose resources `install` has set."""
    app.task(flush, name="usage.flush", **_OPTIONS)
    app.task(entry_point.track, name="usage.track", **entry_point.OPTIONS)
    app.task(entry_point.track_many, name="usage.track_many", **entry_point.OPTIONS)
    app.task(heartbeat, name="monitoring.heartbeat", **_OPTIONS)
    for periodic in PERIODIC_TASKS:
        app.task(_body(periodic), name=periodic.name, **_OPTIONS)


def flush(self: Task, shard: int) -> dict[str, Any]:
    """Count the entries that wait in a shard; Flower shows the figures."""
    resources = _resources(self)
    report = resources.flusher.flush_alone(shard)
    if report.cut_short:
        # Behind the tasks that wait already, but before the next tick, until which this shard would wait.
        with suppress(OperationalError):
            self.apply_async((shard,), expires=resources.settings.trigger_expires)
    return report.as_dict()


def heartbeat(self: Task) -> None:
    """Note that beat sends tasks and a worker executes them; look for vanished and for skipped entries."""
    stream = _resources(self).stream
    if Heartbeat(stream.connection).beat():
        for shard in range(stream.shards):
            stream.sweep_consumers(shard)
    for shard in range(stream.shards):
        stream.vanished(shard)
        if skipped := stream.return_skipped(shard):
            log.warning("somebody made the group skip entries; they are counted now", shard=shard, entries=skipped)


def _body(periodic: PeriodicTask) -> Any:
    def run(self: Task) -> dict[str, Any]:
        resources = _resources(self)
        return periodic.run(resources.store, resources.settings)

    run.__doc__ = periodic.run.__doc__
    return run


def _resources(task: Task) -> Resources:
    resources: Resources = task.app.usage_resources
    return resources
