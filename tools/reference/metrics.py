"""docs/reference/metrics.md, from the metrics that a healthy system shows."""

from __future__ import annotations

from datetime import UTC, datetime

from tools.reference.markdown import code, table
from usage_worker.maintenance import PERIODIC_TASKS, PartitionCoverage
from usage_worker.monitoring.metrics import families
from usage_worker.monitoring.status import SystemStatus
from usage_worker.queue.stream import Backlog
from usage_worker.store import Intake, TaskRun

_INTRODUCTION = """\
# Metrics

What `usage-worker metrics` prints, and serves with `--port`, in the text format of Prometheus. When Redis or PostgreSQL
does not answer, `usage_up` is 0 and the only metric.

"""
# One of each, so that every metric has a sample to read its labels from.
STATUS = SystemStatus(
    backlog={0: Backlog(0, 0, 0.0)},
    redis_memory=0.0,
    workers=[],
    beat_seconds=0.0,
    schema=None,
    totals=Intake(),
    applied_per_second=0.0,
    partitions=[PartitionCoverage("usage_events", 7, 7)],
    last_runs={},
    stalled=[],
    quarantine=None,
)
_RUNS = {task.name: TaskRun(task.name, datetime.fromtimestamp(0, UTC), 0.0, {}) for task in PERIODIC_TASKS}


def page() -> str:
    """Return the page."""
    rows = [
        (
            code(family.samples[0].name),
            family.type,
            ", ".join(code(label) for label in family.samples[0].labels),
            family.documentation,
        )
        for family in families(STATUS, _RUNS)
    ]
    return _INTRODUCTION + table(("metric", "type", "labels", "meaning"), rows)
