"""The status as metrics in the text format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from usage_worker.errors import UsageError
from usage_worker.logs import get_logger
from usage_worker.maintenance import PERIODIC_TASKS
from usage_worker.monitoring.status import collect_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery.app.control import Control
    from prometheus_client.core import Metric

    from usage_worker.monitoring.status import SystemStatus
    from usage_worker.service.resources import Resources
    from usage_worker.store import TaskRun

log = get_logger("metrics")


class StatusCollector(Collector):
    """Collects the status at every scrape, which takes a second."""

    def __init__(self, control: Control, resources: Resources) -> None:
        self._control = control
        self._resources = resources

    def collect(self) -> Iterator[Metric]:
        try:
            current = collect_status(self._control, self._resources)
        except UsageError as error:
            log.warning("no metrics", reason=str(error))
            yield GaugeMetricFamily("usage_up", _UP, value=0)
            return
        yield from families(current, current.last_runs)


def registry(control: Control, resources: Resources) -> CollectorRegistry:
    """Make the registry whose metrics can be served or printed."""
    collectors = CollectorRegistry()
    collectors.register(StatusCollector(control, resources))
    return collectors


def families(current: SystemStatus, runs: dict[str, TaskRun]) -> Iterator[Metric]:
    """Yield every metric of a status and of the last run of each periodic task."""
    yield GaugeMetricFamily("usage_up", _UP, value=1)
    yield from _figures(current)
    yield from _tasks(runs)


_UP = "Whether Redis and PostgreSQL answered."


def _figures(current: SystemStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily("usage_healthy", "Whether `usage-worker status` would exit with 0.", value=current.healthy)
    backlog = [(str(shard), backlog) for shard, backlog in current.backlog.items()]
    yield _gauge(
        "usage_stream_entries", "Entries that wait to be counted.", "shard", ((s, b.entries) for s, b in backlog)
    )
    pending = ((s, b.pending) for s, b in backlog)
    yield _gauge("usage_stream_pending", "Entries that a worker has read and not acknowledged.", "shard", pending)
    oldest = ((s, b.oldest_seconds) for s, b in backlog)
    yield _gauge("usage_stream_oldest_seconds", "Age of the oldest entry.", "shard", oldest)
    yield GaugeMetricFamily("usage_redis_memory_ratio", "Share of maxmemory in use.", value=current.redis_memory)
    events = CounterMetricFamily("usage_events", "What became of accepted events.", labels=["outcome"])
    for outcome in ("applied", "duplicate", "quarantined"):
        events.add_metric([outcome], getattr(current.totals, outcome))
    yield events
    yield GaugeMetricFamily("usage_workers", "Number of workers that answer.", value=len(current.workers))
    if current.beat_seconds is not None:
        yield GaugeMetricFamily("usage_beat_age_seconds", "Time since the last heartbeat.", value=current.beat_seconds)
    ahead = ((table.table, table.ahead_days) for table in current.partitions)
    yield _gauge("usage_partitions_ahead_days", "Days ahead that have a partition.", "table", ahead)
    short = ((table.table, table.is_short) for table in current.partitions)
    yield _gauge("usage_partitions_short", "Whether too few days ahead have a partition.", "table", short)
    text, failed = "Partitions that the last run could not create or drop.", len(current.partitions_failed)
    yield GaugeMetricFamily("usage_partitions_failed", text, value=failed)


def _tasks(runs: dict[str, TaskRun]) -> Iterator[Metric]:
    known = [(task.name, runs[task.name]) for task in PERIODIC_TASKS if task.name in runs]
    finished = ((name, run.finished_at.timestamp()) for name, run in known)
    yield _gauge("usage_task_finished_timestamp_seconds", "When the task last ended.", "task", finished)
    seconds = ((name, run.seconds) for name, run in known)
    yield _gauge("usage_task_seconds", "How long its last run took.", "task", seconds)


def _gauge(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family
