"""From the stream to the counters: decode entries, count them in one transaction, acknowledge them."""

from usage_worker.ingest.flush import Flusher, FlushReport
from usage_worker.ingest.forgotten import check_forget_key, forget_key_of
from usage_worker.ingest.namespace import require_namespace
from usage_worker.ingest.turn import Turn

__all__ = ["FlushReport", "Flusher", "Turn", "check_forget_key", "forget_key_of", "require_namespace"]
