"""Who gets the events of this process instead of Redis: `usage_worker.testing.capture` while it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Of the process, since publishers that exist already are captured, too. A list, whose truth `track` asks in 10 ns.
RECORDERS: list[Callable[[dict[str, Any]], None]] = []
