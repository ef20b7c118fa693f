"""From the stream to the counters: decode the entries, count them in one transaction, let go of them."""

from usage_worker.ingest.flush import Flusher, FlushReport

__all__ = ["FlushReport", "Flusher"]
