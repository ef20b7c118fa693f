"""The status as metrics in the text format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from usage_worker.maintenance import PERIODIC_TASKS
from usage_worker.monitoring.check import State
from usage_worker.monitoring.checks.upkeep import partitions_failed
from usage_worker.monitoring.inspection import POSTGRESQL, REDIS
from usage_worker.monitoring.status import collect_status
from usage_worker.store.anomalies import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from usage_worker.monitoring.inspection import Figures
    from usage_worker.monitoring.status import SystemStatus
    from usage_worker.settings import Settings
    from usage_worker.store import TaskRun


class StatusCollector(Collector):
    """Collects the status at every scrape."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        yield from families(collect_status(self._settings))


def registry(settings: Settings) -> CollectorRegistry:
    """Make the registry whose metrics can be served or printed."""
    collectors = CollectorRegistry()
    collectors.register(StatusCollector(settings))
    return collectors


def families(current: SystemStatus) -> Iterator[Metric]:
    """Yield every metric of a status; what is unknown has no sample."""
    states = {check.name: check.state for check in current.checks}
    up = State.FAIL not in {states[REDIS], states[POSTGRESQL]}
    yield GaugeMetricFamily("usage_up", "Whether Redis and PostgreSQL answered.", value=up)
    yield GaugeMetricFamily("usage_healthy", "Whether `usage-worker status` would exit with 0.", value=current.healthy)
    problems = ((name, state in {State.FAIL, State.WARN}) for name, state in states.items())
    yield _gauge(
        "usage_problem", "Whether the check fails or warns; `usage-worker status` says why.", "check", problems
    )
    yield from _redis(current.figures)
    yield from _database(current.figures)


def _redis(figures: Figures) -> Iterator[Metric]:
    backlog = [(str(shard), backlog) for shard, backlog in (figures.backlog or {}).items()]
    yield _gauge(
        "usage_stream_entries", "Entries that wait to be counted.", "shard", ((s, b.entries) for s, b in backlog)
    )
    pending = ((s, b.pending) for s, b in backlog)
    yield _gauge("usage_stream_pending", "Entries that a worker has read and not acknowledged.", "shard", pending)
    oldest = ((s, b.oldest_seconds) for s, b in backlog)
    yield _gauge("usage_stream_oldest_seconds", "Age of the oldest entry.", "shard", oldest)
    flushes = (figures.flushes or {}).items()
    succeeded = ((str(s), it.succeeded_seconds) for s, it in flushes if it.succeeded_seconds is not None)
    yield _gauge("usage_flush_age_seconds", "Time since a flush last succeeded.", "shard", succeeded)
    vanished = ((str(shard), entries) for shard, entries in (figures.vanished or {}).items())
    yield _gauge("usage_stream_vanished", "Entries that left the stream uncounted.", "shard", vanished)
    if figures.redis_memory is not None:
        text = "Share of maxmemory in use."
        yield GaugeMetricFamily("usage_redis_memory_ratio", text, value=figures.redis_memory)
    if figures.processes is not None:
        text = "Number of workers that are alive."
        yield GaugeMetricFamily("usage_workers", text, value=len(figures.workers))
    if figures.beat_seconds is not None:
        yield GaugeMetricFamily("usage_beat_age_seconds", "Time since the last heartbeat.", value=figures.beat_seconds)


def _database(figures: Figures) -> Iterator[Metric]:
    if figures.totals is not None:
        events = CounterMetricFamily("usage_events", "What became of accepted events.", labels=["outcome"])
        for outcome in ("applied", "duplicate", "quarantined"):
            events.add_metric([outcome], getattr(figures.totals, outcome))
        yield events
    ahead = ((table.table, table.ahead_days) for table in figures.partitions or [])
    yield _gauge("usage_partitions_ahead_days", "Days ahead that have a partition.", "table", ahead)
    short = ((table.table, table.is_short) for table in figures.partitions or [])
    yield _gauge("usage_partitions_short", "Whether too few days ahead have a partition.", "table", short)
    if figures.last_runs is not None:
        text, failed = "Partitions that the last run could not create or drop.", partitions_failed(figures.last_runs)
        yield GaugeMetricFamily("usage_partitions_failed", text, value=len(failed))
        yield from _tasks(figures.last_runs)
    if figures.alerts is not None:
        text = "Anomalies that go on, of all agents together and of the 20 that cost most."
        by_kind: Counter[str] = Counter()
        for alert in figures.alerts:
            by_kind[alert["kind"]] += alert["count"]
        yield _gauge("usage_anomalies_open", text, "kind", ((kind, by_kind[kind]) for kind in KINDS))
    if figures.embeddings is not None:
        text, report = "Agents without a vector of their present text.", figures.embeddings
        counts = ((state, report.get(state, 0)) for state in ("pending", "failed"))
        yield _gauge("usage_agents_not_embedded", text, "reason", counts)


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
