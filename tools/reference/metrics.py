"""docs/reference/metrics.md, from the metrics that a healthy system shows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tools.reference.markdown import code, table
from tools.reference.metric_notes import FAILURE_NOTES, NOTES, QUARANTINE_NOTES
from usage_worker.http.request_metrics import RequestMetrics
from usage_worker.maintenance.partitions import PartitionCoverage
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.monitoring.background import Collected
from usage_worker.monitoring.check import Check, State
from usage_worker.monitoring.inspection import Figures
from usage_worker.monitoring.metrics import build_info, families
from usage_worker.monitoring.status import CHECKS, SystemStatus
from usage_worker.queue.flush_counters import FAILURES, QUARANTINED, counters_of
from usage_worker.queue.stream import Backlog
from usage_worker.store.intake import Intake
from usage_worker.store.task_runs import TaskRun

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

_INTRODUCTION = """\
# Metrics

What `usage-worker metrics` prints, and serves with `--port`, in the text format of Prometheus. A process that serves
them collects them every 10 s, and a scrape gets the last ones from memory: it asks neither Redis nor PostgreSQL. A
scrape before the first collection has ended waits for it, at most 5 s, and then has only `usage_build_info`.

While Redis or PostgreSQL does not answer, `usage_healthy` is 0, `usage_problem` is 1 for its check, counters and times
stay as they were last known, and what holds for one moment only, as the backlog, is missing. `usage_problem` and
`usage_check_fails` are there for each check always, and 0 while what it needs does not answer.

Workers add up what concerns their flushes in Redis, in the record of the shard, right after each commit. These counters
begin again at 0 where Redis loses its data, when nobody has flushed a shard for a week, and where somebody has written
something else into one; `rate()` and `increase()` take that for what it is. Workers older than 1.0 add nothing to them,
what a worker has not recorded when it dies is missing, and what Redis has recorded without an answer in time is added a
second time, with the next record: `usage_events_total`, of PostgreSQL, is the exact one.

"""
_EPOCH = datetime.fromtimestamp(0, UTC)
_RUNS = {task.name: TaskRun(task.name, _EPOCH, 0.0, {}) for task in PERIODIC_TASKS}
# One of each, so that every metric has a sample to read its labels from.
STATUS = SystemStatus(
    [Check(name, State.OK) for name in CHECKS],
    Figures(
        redis_memory=0.0,
        processes=[],
        beat_seconds=0.0,
        beat_at=0.0,
        backlog={0: Backlog(0, 0, 0.0)},
        counters={0: counters_of({b"succeeded": b"0"})},
        vanished={0: 0},
        schema="5.2.0",
        totals=Intake(),
        partitions=[PartitionCoverage("usage_events", 7, 7)],
        last_runs=_RUNS,
        alerts=[],
        embeddings={},
    ),
)

_REASONS = """
## Reasons

`reason` of `usage_flush_failures_total` and `usage_quarantined_events_total` is one of these, whatever the error or the
dead letter says; each has a sample from the beginning, so that the first one is an increase, too.

"""
_SERVICE = """
## The service

What [`usage-worker serve`](../http.md) serves at `/metrics`: of all its processes since it started. A path is one of
its own, or `other`.

"""


def page() -> str:
    """Return the page."""
    reasons = _REASONS + _kinds("failure", FAILURES, FAILURE_NOTES) + "\n"
    reasons += _kinds("quarantined event", QUARANTINED, QUARANTINE_NOTES)
    checks = f"\nThe checks: {', '.join(map(code, CHECKS))}. [Operations](../operations.md#watch) describes them.\n"
    metrics = [build_info(), *families(Collected(STATUS, _EPOCH, STATUS.figures))]
    return _INTRODUCTION + _table(metrics) + checks + reasons + _SERVICE + _table(_service())


def _kinds(of: str, kinds: Iterable[str], notes: dict[str, str]) -> str:
    return table((f"reason of a {of}", "what happened"), ((code(kind), notes[kind]) for kind in kinds))


def _service() -> Iterable[Metric]:
    """Return the metrics of a service that has answered a request."""
    metrics = RequestMetrics([])
    metrics.count_request({"path": "/"}, 200, 0)
    metrics.count_events(1, 0)
    return metrics.registry.collect()


def _table(metrics: Iterable[Metric]) -> str:
    rows = [
        (
            code(family.samples[0].name),
            family.type,
            ", ".join(code(label) for label in family.samples[0].labels),
            family.documentation,
            *NOTES[family.name],
        )
        for family in metrics
    ]
    return table(("metric", "type", "labels", "meaning", "unit", "worry when"), rows)
