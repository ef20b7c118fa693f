"""The periodic work: what keeps tables lean, analytics fresh and figures provable. One duty a file; no Celery."""

from worker.maintenance.duty import Tell, perform

__all__ = ["Tell", "perform"]
