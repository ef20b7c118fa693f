"""usage-worker counts what users do with AI agents: exactly once, in batches, off the request path."""

from worker.errors import UsageError
from worker.events import Event
from worker.publisher import PublisherStats, UsagePublisher

__all__ = ["Event", "PublisherStats", "UsageError", "UsagePublisher"]
