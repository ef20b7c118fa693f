"""The application's side: `track()` is an append to a bounded buffer; a background thread sends what lies there."""

from usage_worker.publisher.publisher import UsagePublisher
from usage_worker.publisher.sender import REDIS_MEMORY_LIMIT, PublisherStats

__all__ = ["REDIS_MEMORY_LIMIT", "PublisherStats", "UsagePublisher"]
