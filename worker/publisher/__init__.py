"""The application's side: `track()` is an append to a bounded buffer; a background thread sends what lies there."""

from worker.publisher.publisher import UsagePublisher
from worker.publisher.sender import HOLD_ABOVE, PublisherStats

__all__ = ["HOLD_ABOVE", "PublisherStats", "UsagePublisher"]
