"""The Celery tasks: a typed signature and one call each. Their names are the entry point for Celery applications."""

from __future__ import annotations

from contextlib import suppress
from json import dumps
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from kombu.exceptions import OperationalError
from pydantic_core import to_json

from usage_worker.errors import StreamUnavailableError, UsageError
from usage_worker.maintenance import PERIODIC_TASKS
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.queue.stream import PACK_EVENTS, Pack

if TYPE_CHECKING:
    from celery import Celery, Task

    from usage_worker.maintenance import PeriodicTask
    from usage_worker.service.resources import Resources

# A UsageError is an expected failure: Celery then logs one line instead of a traceback.
_OPTIONS: dict[str, Any] = {"bind": True, "shared": False, "throws": (UsageError,)}
# The message is acknowledged after the append. If a worker dies in between, it is delivered again, and the key of the
# pack, made from the id of the task, shows the database that it is the same one.
_ENTRY_POINT_OPTIONS: dict[str, Any] = {
    "bind": True,
    "shared": False,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "autoretry_for": (StreamUnavailableError,),
    "retry_backoff": True,
    "max_retries": None,
}


def register(app: Celery) -> None:
    """Add our tasks to a Celery app whose resources `install` has set."""
    app.task(flush, name="usage.flush", **_OPTIONS)
    app.task(track, name="usage.track", **_ENTRY_POINT_OPTIONS)
    app.task(track_many, name="usage.track_many", **_ENTRY_POINT_OPTIONS)
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


def track(self: Task, **event: Any) -> None:
    """Append one event from an application that only uses Celery."""
    _append(self, [event])


def track_many(self: Task, events: list[dict[str, Any]]) -> None:
    """Append many events at once."""
    _append(self, events)


def heartbeat(self: Task) -> None:
    """Note that beat sends tasks and a worker executes them."""
    Heartbeat(_resources(self).stream.connection).beat()


def _body(periodic: PeriodicTask) -> Any:
    def run(self: Task) -> dict[str, Any]:
        resources = _resources(self)
        return periodic.run(resources.store, resources.settings)

    run.__doc__ = periodic.run.__doc__
    return run


def _resources(task: Task) -> Resources:
    resources: Resources = task.app.usage_resources
    return resources


def _append(task: Task, events: list[dict[str, Any]]) -> None:
    """Append events, bad ones too: ingest quarantines them with their reason, an exception would lose them."""
    stream, task_id = _resources(task).stream, UUID(task.request.id)
    shard = stream.shard_of(task_id)
    bodies = list(map(_json, events))
    stream.append(
        (shard, Pack(uuid5(task_id, str(start)), bodies[start : start + PACK_EVENTS]))
        for start in range(0, len(bodies), PACK_EVENTS)
    )


def _json(event: dict[str, Any]) -> bytes:
    try:
        return to_json(event)
    except ValueError:  # half a surrogate pair, which UTF-8 cannot hold and the escapes of JSON can
        return dumps(event, default=str).encode()
