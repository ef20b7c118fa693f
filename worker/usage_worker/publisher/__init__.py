"""Publishing from an application: `track()` appends to a bounded buffer, and a background thread sends it to Redis."""

from usage_worker.publisher.account import PublisherStats
from usage_worker.publisher.context import context, current_context
from usage_worker.publisher.hooks import EventLoss
from usage_worker.publisher.publisher import UsagePublisher

__all__ = ["EventLoss", "PublisherStats", "UsagePublisher", "context", "current_context"]
