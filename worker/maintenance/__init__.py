"""The periodic work: what keeps tables lean, analytics fresh and figures provable. One duty a file; no Celery."""

from worker.maintenance.analytics import REFRESH, RefreshReport, refresh
from worker.maintenance.differences import Difference, ReconcileReport
from worker.maintenance.duty import Tell, perform
from worker.maintenance.partitions import MANAGE_PARTITIONS, Outlook, PartitionsReport, manage_partitions, outlook
from worker.maintenance.purge import PURGE, PurgeReport, purge
from worker.maintenance.reconcile import RECONCILE, Scope, reconcile

__all__ = [
    "MANAGE_PARTITIONS",
    "PURGE",
    "RECONCILE",
    "REFRESH",
    "Difference",
    "Outlook",
    "PartitionsReport",
    "PurgeReport",
    "ReconcileReport",
    "RefreshReport",
    "Scope",
    "Tell",
    "manage_partitions",
    "outlook",
    "perform",
    "purge",
    "reconcile",
    "refresh",
]
