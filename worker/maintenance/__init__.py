"""The periodic work: what keeps tables lean, analytics fresh and figures provable. One duty a file; no Celery."""

from worker.maintenance.analytics import REFRESH, RefreshReport, refresh
from worker.maintenance.duty import Tell, perform
from worker.maintenance.partitions import MANAGE_PARTITIONS, Outlook, PartitionsReport, manage_partitions, outlook

__all__ = [
    "MANAGE_PARTITIONS",
    "REFRESH",
    "Outlook",
    "PartitionsReport",
    "RefreshReport",
    "Tell",
    "manage_partitions",
    "outlook",
    "perform",
    "refresh",
]
