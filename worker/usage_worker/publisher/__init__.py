"""Publishing from an application: `track()` appends to a bounded buffer, and a background thread sends it to Redis."""

from usage_worker.publisher.account import PublisherStats
from usage_worker.publisher.context import context, current_context
from usage_worker.publisher.publisher import UsagePublisher
from usage_worker.publisher.redis_watch import REDIS_MEMORY_LIMIT

__all__ = ["REDIS_MEMORY_LIMIT", "PublisherStats", "UsagePublisher", "context", "current_context"]
