"""The periodic tasks, one per file, and what they share; no Celery."""

from usage_worker.maintenance.analytics import REFRESH, RefreshReport, refresh
from usage_worker.maintenance.anomalies import ANOMALIES, find_anomalies
from usage_worker.maintenance.differences import Difference, ReconcileReport
from usage_worker.maintenance.embeddings import EMBED, EmbedReport, embed
from usage_worker.maintenance.graph import GRAPH, GraphReport, update_graph
from usage_worker.maintenance.hours import HoursReport, compute_hours
from usage_worker.maintenance.partitions import (
    MANAGE_PARTITIONS,
    PartitionCoverage,
    PartitionsReport,
    manage_partitions,
    partition_coverage,
)
from usage_worker.maintenance.pruning import PRUNE
from usage_worker.maintenance.purge import PURGE, PurgeReport, purge
from usage_worker.maintenance.quality import QUALITY
from usage_worker.maintenance.reconcile import RECONCILE, Scope, reconcile
from usage_worker.maintenance.registry import PERIODIC_TASKS, PeriodicTask
from usage_worker.maintenance.task_run import OnProgress, run_task
from usage_worker.store import HOURS

__all__ = [
    "ANOMALIES",
    "EMBED",
    "GRAPH",
    "HOURS",
    "MANAGE_PARTITIONS",
    "PERIODIC_TASKS",
    "PRUNE",
    "PURGE",
    "QUALITY",
    "RECONCILE",
    "REFRESH",
    "Difference",
    "EmbedReport",
    "GraphReport",
    "HoursReport",
    "OnProgress",
    "PartitionCoverage",
    "PartitionsReport",
    "PeriodicTask",
    "PurgeReport",
    "ReconcileReport",
    "RefreshReport",
    "Scope",
    "compute_hours",
    "embed",
    "find_anomalies",
    "manage_partitions",
    "partition_coverage",
    "purge",
    "reconcile",
    "refresh",
    "run_task",
    "update_graph",
]
