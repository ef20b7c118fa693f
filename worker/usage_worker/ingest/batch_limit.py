"""How many entries a transaction may have after PostgreSQL cancelled a larger one."""

from __future__ import annotations

from math import inf

_CALM_BATCHES = 50
# Entries that were cancelled alone, one after the other: then the database is slow, not the entries.
_HOPELESS = 3


class BatchLimit:
    """Halved by each cancelled batch, so that not every batch is cancelled first; doubled after some that succeeded."""

    def __init__(self) -> None:
        self.entries = inf
        self._succeeded = self._cancelled_alone = 0

    def cancelled(self, entries: int) -> None:
        """Halve the limit after a batch of so many entries took too long."""
        self.entries, self._succeeded = max(1, entries // 2), 0
        self._cancelled_alone += entries == 1

    def succeeded(self) -> None:
        """Note that a batch was counted."""
        self._cancelled_alone = 0
        self._succeeded += 1
        if self._succeeded == _CALM_BATCHES:
            self.entries, self._succeeded = 2 * self.entries, 0

    @property
    def is_hopeless(self) -> bool:
        """Whether to leave the rest for later."""
        return self._cancelled_alone >= _HOPELESS
