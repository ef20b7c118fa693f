"""How many events a transaction may have: few of calm traffic, many where a backlog waits."""

from __future__ import annotations

_FIRST, _LEAST = 20_000, 1_000
# A transaction keeps its rows locked, for its second half: somebody who edits one of them waits for it.
_AIM_SECONDS = 4.0
# One fast batch does not show that a much larger one is as fast.
_MOST_GROWTH = 4


class BatchSize:
    """As many events as take four seconds at the rate of the last batch that was half full, or took longer.

    In a batch of 200,000 events PostgreSQL needs half of the time for each that it needs in one of 20,000, since it
    updates a pair once for more of them. The default bounds a worker's memory.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.events = min(_FIRST, most)

    def counted(self, events: int, seconds: float) -> None:
        """Note that a batch was counted."""
        if 2 * events > self.events or seconds > _AIM_SECONDS:
            wanted = min(int(events * _AIM_SECONDS / max(seconds, 0.001)), self.events * _MOST_GROWTH)
            self.events = max(min(wanted, self._most), min(_LEAST, self._most))
