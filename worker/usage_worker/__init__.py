"""usage-worker counts what users do with AI agents: exactly once, in batches, off the request path."""

from usage_worker.errors import UsageError
from usage_worker.events.event import Event
from usage_worker.publisher import PublisherStats, UsagePublisher

__all__ = ["Event", "PublisherStats", "UsageError", "UsagePublisher"]
