"""The status as metrics in the text format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import platform
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.monitoring.check import State
from usage_worker.monitoring.checks.upkeep import partitions_failed
from usage_worker.monitoring.flush_metrics import flush_metrics
from usage_worker.store.anomalies import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from usage_worker.monitoring.background import Collected
    from usage_worker.monitoring.inspection import Figures
    from usage_worker.store.task_runs import TaskRun


class StatusCollector(Collector):
    """Shows what `last` returns at every scrape; where that is nothing yet, only what this process is."""

    def __init__(self, last: Callable[[], Collected | None]) -> None:
        self._last = last

    def collect(self) -> Iterator[Metric]:
        yield build_info()
        if last := self._last():
            yield from families(last)


def registry(last: Callable[[], Collected | None]) -> CollectorRegistry:
    """Make the registry whose metrics can be served or printed, given what returns the status to show."""
    collectors = CollectorRegistry()
    collectors.register(StatusCollector(last))
    return collectors


def build_info() -> Metric:
    """Return the versions of this process."""
    info = GaugeMetricFamily(
        "usage_build_info",
        "The version of usage-worker here, and that of Python; always 1.",
        labels=["version", "python"],
    )
    info.add_metric([version("usage-worker"), platform.python_version()], 1)
    return info


def families(collected: Collected) -> Iterator[Metric]:
    """Yield every metric of a status; what is unknown has no sample."""
    status, at, known = collected
    text = "When the collection of the figures began; they are collected every 10 s."
    yield GaugeMetricFamily("usage_status_collected_timestamp_seconds", text, value=at.timestamp())
    yield GaugeMetricFamily("usage_healthy", "Whether `usage-worker status` would exit with 0.", value=status.healthy)
    text = "Whether the check fails or warns; `usage-worker status` says why, and the remedy."
    yield _gauge("usage_problem", text, "check", ((check.name, check.is_problem) for check in status.checks))
    text = "Whether the check fails; 0 where it only warns."
    fails = ((check.name, check.state is State.FAIL) for check in status.checks)
    yield _gauge("usage_check_fails", text, "check", fails)
    yield from _redis(status.figures, known)
    yield from flush_metrics(known.counters or {})
    yield from _database(status.figures, known)


def _redis(figures: Figures, known: Figures) -> Iterator[Metric]:
    backlog = [(str(shard), backlog) for shard, backlog in (figures.backlog or {}).items()]
    text = "Entries that wait to be counted."
    yield _gauge("usage_stream_entries", text, "shard", ((shard, it.entries) for shard, it in backlog))
    text = "Entries that a worker has read and not acknowledged."
    yield _gauge("usage_stream_pending_entries", text, "shard", ((shard, it.pending) for shard, it in backlog))
    text = "Age of the oldest entry; 0 where none waits."
    yield _gauge(
        "usage_stream_oldest_entry_seconds", text, "shard", ((shard, it.oldest_seconds) for shard, it in backlog)
    )
    vanished = CounterMetricFamily(
        "usage_stream_vanished_entries", "Entries that left the stream uncounted.", labels=["shard"]
    )
    for shard, entries in (known.vanished or {}).items():
        vanished.add_metric([str(shard)], entries)
    yield vanished
    if figures.redis_memory is not None:
        text = "Share of maxmemory in use; 0 without a limit."
        yield GaugeMetricFamily("usage_redis_memory_ratio", text, value=figures.redis_memory)
    if figures.processes is not None:
        yield GaugeMetricFamily("usage_workers", "Workers that are alive.", value=len(figures.workers))
    if known.beat_at is not None:
        text = "When a worker last executed the heartbeat that beat sends every 10 s."
        yield GaugeMetricFamily("usage_beat_last_heartbeat_timestamp_seconds", text, value=known.beat_at)


def _database(figures: Figures, known: Figures) -> Iterator[Metric]:
    if figures.schema is not None:
        schema = GaugeMetricFamily(
            "usage_schema_info", "The version of the database's schema; always 1.", labels=["version"]
        )
        schema.add_metric([figures.schema], 1)
        yield schema
    if known.totals is not None:
        events = CounterMetricFamily("usage_events", "What became of accepted events.", labels=["outcome"])
        for outcome in ("applied", "duplicate", "quarantined"):
            events.add_metric([outcome], getattr(known.totals, outcome))
        yield events
    ahead = ((table.table, table.ahead_days) for table in figures.partitions or [])
    yield _gauge("usage_partitions_ahead", "Days ahead that have a partition.", "table", ahead)
    short = ((table.table, table.is_short) for table in figures.partitions or [])
    yield _gauge("usage_partitions_short", "Whether too few days ahead have a partition.", "table", short)
    if known.last_runs is not None:
        text, failed = "Partitions that the last run could not create or drop.", partitions_failed(known.last_runs)
        yield GaugeMetricFamily("usage_partitions_failed", text, value=len(failed))
        yield from _tasks(known.last_runs)
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
    text = "When a run of the task last ended without an error, by PostgreSQL's clock."
    yield _gauge("usage_task_last_success_timestamp_seconds", text, "task", finished)
    seconds = ((name, run.seconds) for name, run in known)
    yield _gauge("usage_task_duration_seconds", "How long that run took.", "task", seconds)


def _gauge(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family
