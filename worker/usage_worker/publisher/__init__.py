"""Publishing from an application: `track()` appends to a bounded buffer, and a background thread sends it to Redis."""

from usage_worker.publisher.publisher import UsagePublisher
from usage_worker.publisher.sender import REDIS_MEMORY_LIMIT, PublisherStats

__all__ = ["REDIS_MEMORY_LIMIT", "PublisherStats", "UsagePublisher"]
