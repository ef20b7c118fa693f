"""What publishers must have in common to share a sender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that may wait, seconds that an event waits for others, and events in an entry."""

    buffer_bytes: int
    linger: float
    pack_events: int


class SenderKey(NamedTuple):
    """What the publishers of one sender have in common; `namespace` is that of their ids, where these may be any."""

    redis_url: str
    shards: int
    limits: Limits
    namespace: UUID | None = None
    is_backfill: bool = False
    """See `Pack`."""
