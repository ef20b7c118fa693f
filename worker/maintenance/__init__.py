"""The periodic work: what keeps tables lean, analytics fresh and figures provable. One duty a file; no Celery."""

from worker.maintenance.analytics import REFRESH, RefreshReport, refresh
from worker.maintenance.duty import Tell, perform

__all__ = ["REFRESH", "RefreshReport", "Tell", "perform", "refresh"]
