"""From the stream to the counters: decode entries, count them in one transaction, acknowledge them."""

from usage_worker.ingest.flush import Flusher, FlushReport
from usage_worker.ingest.forgotten import forget_key_of, require_forget_key
from usage_worker.ingest.namespace import require_namespace
from usage_worker.ingest.turn import Turn

__all__ = ["FlushReport", "Flusher", "Turn", "forget_key_of", "require_forget_key", "require_namespace"]
