"""How many events a transaction may have: few of calm traffic, many where a backlog waits."""

from __future__ import annotations

# 400,000 events of one shard, uniform, 50,000 pairs: about a quarter less of PostgreSQL's CPU than from 20,000 on.
_FIRST, _LEAST = 50_000, 1_000
# Whoever edits a row that a transaction has locked waits for its end, and a worker that is to stop finishes its batch.
_LOCKED_SECONDS, _SECONDS = 6.0, 8.0
# One fast batch does not show that a much larger one is as fast.
_MOST_GROWTH = 4


class BatchSize:
    """How many events the next batch may have.

    As many as take eight seconds in all, and six with rows locked, at the rate of the last batch that was half
    full or exceeded one of the two. In a batch of 200,000 events PostgreSQL needs half of the time for each that it
    needs in one of 20,000, since it updates a pair once for more of them. The default bounds a worker's memory.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.events = min(_FIRST, most)

    def counted(self, events: int, seconds: float, locked: float) -> None:
        """Note that a batch was counted, and for how many of the seconds it kept rows locked."""
        load = max(seconds / _SECONDS, locked / _LOCKED_SECONDS)
        if 2 * events > self.events or load > 1:
            wanted = min(int(events / max(load, 0.001)), self.events * _MOST_GROWTH)
            self.events = max(min(wanted, self._most), min(_LEAST, self._most))
