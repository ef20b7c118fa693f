"""What publishers must have in common to share a sender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that may wait, seconds that an event waits for others, and events in an entry."""

    buffer_bytes: int
    linger: float
    pack_events: int


class SenderKey(NamedTuple):
    """What the publishers of one sender have in common."""

    redis_url: str
    shards: int
    limits: Limits
    is_backfill: bool = False
    """See `Pack`."""
