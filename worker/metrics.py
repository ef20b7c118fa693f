"""The look of `status` as metrics in the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from worker.errors import UsageError
from worker.logs import get_logger
from worker.monitoring import look
from worker.store import last_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery.app.control import Control
    from prometheus_client.core import Metric

    from worker.monitoring import Status
    from worker.resources import Resources
    from worker.store import Run

log = get_logger("metrics")


class StatusCollector(Collector):
    """Looks anew whenever it is asked; a look takes a second."""

    def __init__(self, control: Control, resources: Resources) -> None:
        self._control = control
        self._resources = resources

    def collect(self) -> Iterator[Metric]:
        try:
            seen = look(self._control, self._resources)
            runs = last_runs(self._resources.store)
        except UsageError as error:
            log.warning("no metrics", reason=str(error))
            yield GaugeMetricFamily("usage_up", _UP, value=0)
            return
        yield GaugeMetricFamily("usage_up", _UP, value=1)
        yield from _figures(seen)
        yield from _tasks(runs)


def registry(control: Control, resources: Resources) -> CollectorRegistry:
    """What can be served, or printed."""
    made = CollectorRegistry()
    made.register(StatusCollector(control, resources))
    return made


_UP = "Whether Redis and PostgreSQL answered."


def _figures(seen: Status) -> Iterator[Metric]:
    yield GaugeMetricFamily("usage_healthy", "Whether `usage-worker status` would exit with 0.", value=seen.healthy)
    backlog = [(str(shard), backlog) for shard, backlog in seen.backlog.items()]
    yield _gauge("usage_stream_entries", "Entries that wait.", "shard", ((s, b.entries) for s, b in backlog))
    yield _gauge("usage_stream_pending", "Entries in a worker's hands.", "shard", ((s, b.pending) for s, b in backlog))
    oldest = ((s, b.oldest_seconds) for s, b in backlog)
    yield _gauge("usage_stream_oldest_seconds", "Age of the oldest entry.", "shard", oldest)
    yield GaugeMetricFamily("usage_redis_memory_ratio", "Memory used, of maxmemory.", value=seen.redis_memory)
    events = CounterMetricFamily("usage_events", "What became of accepted events.", labels=["outcome"])
    for outcome in ("applied", "duplicate", "quarantined"):
        events.add_metric([outcome], getattr(seen.totals, outcome))
    yield events
    yield GaugeMetricFamily("usage_workers", "Workers that answer.", value=len(seen.workers))
    if seen.beat_seconds is not None:
        yield GaugeMetricFamily("usage_beat_age_seconds", "Time since the last heartbeat.", value=seen.beat_seconds)
    ahead = ((table.table, table.ahead_days) for table in seen.partitions)
    yield _gauge("usage_partitions_ahead_days", "Days ahead that have a partition.", "table", ahead)
    short = ((table.table, table.is_short) for table in seen.partitions)
    yield _gauge("usage_partitions_short", "Whether these are too few.", "table", short)
    failed = len(seen.partitions_failed)
    yield GaugeMetricFamily("usage_partitions_failed", "Partitions that the last run left undone.", value=failed)


def _tasks(runs: dict[str, Run]) -> Iterator[Metric]:
    finished = ((task, run.finished_at.timestamp()) for task, run in runs.items())
    yield _gauge("usage_task_finished_timestamp_seconds", "When the task last ended.", "task", finished)
    seconds = ((task, run.seconds) for task, run in runs.items())
    yield _gauge("usage_task_seconds", "How long its last run took.", "task", seconds)


def _gauge(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family
