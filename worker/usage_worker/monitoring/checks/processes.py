"""The workers: one for each purpose, one number of shards, and one namespace of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.events.external_ids import external_ids
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.monitoring.check import fail, warn
from usage_worker.monitoring.inspection import REDIS, Section
from usage_worker.queue.processes import Processes
from usage_worker.service.process_record import COUNTING, MAINTENANCE
from usage_worker.service.queues import QueueName
from usage_worker.service.schedule import OFF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Figures, Inspection
    from usage_worker.queue.processes import ProcessRecord
    from usage_worker.settings import Settings


def _processes(inspection: Inspection) -> Iterator[Check]:
    figures = inspection.figures
    figures.processes = Processes(inspection.stream.connection).read()
    yield from _consumers(figures, inspection.settings)
    yield from _names(figures)
    yield from _numbers_of_shards(figures, inspection.settings)
    yield from _namespaces(figures, inspection.settings)


def _consumers(figures: Figures, settings: Settings) -> Iterator[Check]:
    workers = [record for record in figures.processes or [] if record.process.kind == "worker"]
    start = "`celery -A usage_worker worker --queues {}`, or `usage-worker up`"
    purposes = [(COUNTING, QueueName.COUNTING, "no worker counts")]
    if any(task.schedule(settings).strip() != OFF for task in PERIODIC_TASKS):
        purposes.append((MAINTENANCE, QueueName.MAINTENANCE, "no worker executes the periodic tasks"))
    for role, queue, missing in purposes:
        able = [record for record in workers if role in record.process.roles]
        if not any(record.is_alive for record in able):
            reason = f"{missing} (queue `{queue.value}`)" + last_seen(able)
            yield fail(f"consumer_{role}", reason, f"start {start.format(queue.value)}")


def _names(figures: Figures) -> Iterator[Check]:
    twins = [it for it in figures.alive if it.process.twin and it.process.kind == "worker"]
    listed = "; ".join(f"{it.name} on {it.process.host} and on {it.process.twin}" for it in twins)
    if listed:
        reason = f"two workers have one name, so that the end of one would not be seen: {listed}"
        yield warn("node_names", reason, "start one of them with another --hostname")


def _numbers_of_shards(figures: Figures, settings: Settings) -> Iterator[Check]:
    numbers = {it.name: it.process.shards for it in figures.alive if it.process.shards and it.process.roles}
    figures.shards = max(numbers.values(), default=settings.stream_shards)
    remedy = "set the same USAGE_STREAM_SHARDS for all processes and restart them"
    if len(set(numbers.values())) > 1:
        listed = ", ".join(f"{name}: {number}" for name, number in numbers.items())
        yield warn("shards_setting", f"workers have different numbers of shards: {listed}", remedy)
    elif numbers and figures.shards != settings.stream_shards:
        reason = f"the workers have {figures.shards} shards, and this command has {settings.stream_shards}"
        yield warn("shards_setting", reason, remedy)


def _namespaces(figures: Figures, settings: Settings) -> Iterator[Check]:
    found = {it.name: it.process.namespace for it in figures.alive if it.process.namespace and it.process.roles}
    own = str(external_ids(settings.id_namespace).namespace)
    remedy = "set the same USAGE_ID_NAMESPACE for all processes and restart them"
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name}: {namespace}" for name, namespace in found.items())
        yield fail("namespace_setting", f"workers make different UUIDs of the same ids: {listed}", remedy)
    elif found and own not in found.values():
        reason = f"the workers have the namespace {next(iter(found.values()))}, and this command has {own}"
        yield warn("namespace_setting", reason, remedy)


def last_seen(records: list[ProcessRecord]) -> str:
    """Return the end of a reason: which of the processes was there last."""
    if not records:
        return ""
    last = min(records, key=lambda record: record.seconds)
    return f"; {last.name} was last seen {last.seconds:.0f} s ago"


PROCESSES = Section(
    ("consumer_counting", "consumer_maintenance", "node_names", "shards_setting", "namespace_setting"),
    _processes,
    needs=(REDIS,),
)
