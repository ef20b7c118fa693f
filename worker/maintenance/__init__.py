"""The periodic work: what keeps tables lean, analytics fresh and figures provable. One duty a file; no Celery."""

from worker.maintenance.analytics import REFRESH, RefreshReport, refresh
from worker.maintenance.duty import Tell, perform
from worker.maintenance.purge import PURGE, PurgeReport, purge
from worker.maintenance.reconcile import RECONCILE, Difference, ReconcileReport, Scope, reconcile

__all__ = [
    "PURGE",
    "RECONCILE",
    "REFRESH",
    "Difference",
    "PurgeReport",
    "ReconcileReport",
    "RefreshReport",
    "Scope",
    "Tell",
    "perform",
    "purge",
    "reconcile",
    "refresh",
]
