"""What publishers must have in common to share a sender."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import SettingsError
from usage_worker.events.columns import MAX_PACK_EVENTS
from usage_worker.settings import DEFAULT_MASTER

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that may wait, seconds that an event waits for others, and events in an entry.

    An entry has `MAX_PACK_EVENTS` at most: one that is too large reaches Redis, and workers refuse all of its events.

    Raises:
        SettingsError: one of them is not a number of this kind, or too large.
    """

    buffer_bytes: int
    linger: float
    pack_events: int

    def __post_init__(self) -> None:
        for name in ("buffer_bytes", "pack_events"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingsError(f"{name}: must be an integer of at least 1")
        if self.pack_events > MAX_PACK_EVENTS:
            raise SettingsError(f"pack_events: must be at most {MAX_PACK_EVENTS}, which always fit into an entry")
        if not isinstance(self.linger, int | float) or not isfinite(self.linger) or self.linger < 0:
            raise SettingsError("linger: must be a number of seconds, 0 or more")


class SenderKey(NamedTuple):
    """What the publishers of one sender have in common; `namespace` is that of their ids, where these may be any."""

    redis_url: str
    shards: int
    limits: Limits
    namespace: UUID | None = None
    is_backfill: bool = False
    """See `Pack`."""
    redis_master: str = DEFAULT_MASTER
    redis_replicas: int = 0
