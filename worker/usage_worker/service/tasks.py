"""The Celery tasks: a typed signature and one call each. Their names are the public door for Celery applications."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from json import dumps
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from celery import Task, shared_task
from kombu.exceptions import OperationalError
from pydantic_core import to_json

from usage_worker import maintenance
from usage_worker.errors import StreamUnavailableError, UsageError
from usage_worker.queue.stream import PACK_EVENTS, Pack

if TYPE_CHECKING:
    from usage_worker.service.resources import Resources

# The message is acknowledged after the append: a worker that dies in between gets it again, and the pack's key, taken
# from the task's id, lets the database see that it is the same one.
_ENTRY_POINT_OPTIONS: dict[str, Any] = {
    "acks_late": True,
    "reject_on_worker_lost": True,
    "autoretry_for": (StreamUnavailableError,),
    "retry_backoff": True,
    "max_retries": None,
}


def _resources(task: Task) -> Resources:
    resources: Resources = task.app.resources
    return resources


@shared_task(name="usage.flush", bind=True, throws=(UsageError,))  # type: ignore[untyped-decorator]
def flush(self: Task, shard: int) -> dict[str, Any]:
    """Count what waits in a shard; the figures are what Flower shows."""
    resources = _resources(self)
    report = resources.flusher.flush_alone(shard)
    if report.cut_short:
        # Behind the tasks that wait already, but before the next tick, until which nobody would work here.
        with suppress(OperationalError):
            self.apply_async((shard,), expires=resources.settings.trigger_expires)
    return report.as_dict()


@shared_task(name="usage.track", bind=True, **_ENTRY_POINT_OPTIONS)  # type: ignore[untyped-decorator]
def track(self: Task, **event: Any) -> None:
    """Take one event from an application that only speaks Celery."""
    _append(self, [event])


@shared_task(name="usage.track_many", bind=True, **_ENTRY_POINT_OPTIONS)  # type: ignore[untyped-decorator]
def track_many(self: Task, events: list[dict[str, Any]]) -> None:
    """Take many events at once."""
    _append(self, events)


@shared_task(name=maintenance.PURGE, bind=True, throws=(UsageError,))  # type: ignore[untyped-decorator]
def purge(self: Task) -> dict[str, Any]:
    """Purge what was deleted and not restored in time."""
    store, settings, report = _resources(self).store, _resources(self).settings, maintenance.PurgeReport()
    work = partial(maintenance.purge, store, settings.purge_after, settings.purge_budget, report=report)
    return maintenance.run_task(store, maintenance.PURGE, work, report)


@shared_task(name=maintenance.RECONCILE, bind=True, throws=(UsageError,))  # type: ignore[untyped-decorator]
def reconcile(self: Task) -> dict[str, Any]:
    """See whether counters, roll-up, ledger and books say the same."""
    store, settings = _resources(self).store, _resources(self).settings
    work = partial(maintenance.reconcile, store, settings, budget=settings.reconcile_budget)
    return maintenance.run_task(store, maintenance.RECONCILE, work)


@shared_task(name=maintenance.REFRESH, bind=True, throws=(UsageError,))  # type: ignore[untyped-decorator]
def refresh(self: Task) -> dict[str, Any]:
    """Refresh the analytics where they are out of date."""
    store = _resources(self).store
    return maintenance.run_task(store, maintenance.REFRESH, lambda: maintenance.refresh(store))


@shared_task(name=maintenance.MANAGE_PARTITIONS, bind=True, throws=(UsageError,))  # type: ignore[untyped-decorator]
def manage_partitions(self: Task) -> dict[str, Any]:
    """Make partitions ahead, drop those past their retention."""
    store, settings, report = _resources(self).store, _resources(self).settings, maintenance.PartitionsReport()
    work = partial(maintenance.manage_partitions, store, settings, report=report)
    return maintenance.run_task(store, maintenance.MANAGE_PARTITIONS, work, report)


@shared_task(name="monitoring.heartbeat", bind=True, throws=(UsageError,))  # type: ignore[untyped-decorator]
def heartbeat(self: Task) -> None:
    """Leave a trace that beat sends and a worker executes."""
    _resources(self).stream.beat()


def _append(task: Task, events: list[dict[str, Any]]) -> None:
    """Bad events are appended, too: ingest quarantines them with their reason, where an exception would lose them."""
    stream, task_id = _resources(task).stream, UUID(task.request.id)
    shard = stream.shard_of(task_id)
    bodies = list(map(_body, events))
    stream.append(
        (shard, Pack(uuid5(task_id, str(start)), bodies[start : start + PACK_EVENTS]))
        for start in range(0, len(bodies), PACK_EVENTS)
    )


def _body(event: dict[str, Any]) -> bytes:
    try:
        return to_json(event)
    except ValueError:  # half a character, which UTF-8 cannot say; JSON's escapes can
        return dumps(event, default=str).encode()
