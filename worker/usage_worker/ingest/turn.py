"""The turn of a flush: how long it may go on, and whether it waits for events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# A flush that waits looks this often, in seconds, whether its worker is shutting down. Also well below a sensible
# `socket_timeout` in REDIS_URL.
_SLICE_SECONDS = 0.1
# Calm traffic becomes batches of so many seconds: each transaction has a fixed cost.
_REST_SECONDS = 0.05


class Turn:
    """The turn of one flush, which begins now.

    Args:
        budget: seconds after which it begins no further batch.
        wait: seconds for which it waits for events without a backlog; by default it ends when its shard is empty.
        is_stopping: whether its process is to end after the batch in hand.
    """

    def __init__(self, budget: float, wait: float = 0.0, is_stopping: Callable[[], bool] = lambda: False) -> None:
        self.began = time.monotonic()
        self.deadline = self.began + budget
        self._waits_until = self.began + min(wait, budget)
        self._is_stopping = is_stopping

    @property
    def waits(self) -> bool:
        """Whether it waits for events at all."""
        return self._waits_until > self.began

    @property
    def is_over(self) -> bool:
        """Whether no further batch may begin."""
        return time.monotonic() >= self.deadline or self._is_stopping()

    @property
    def is_half_over(self) -> bool:
        """Whether new entries are due: those of vanished workers, and those that wait for rows, may be any number."""
        return time.monotonic() >= (self.began + self.deadline) / 2

    @property
    def is_over_without_backlog(self) -> bool:
        """Whether it must not wait any longer."""
        return time.monotonic() >= self._waits_until or self._is_stopping()

    def to_wait(self) -> float:
        """Return for how many seconds the next read may wait for an entry."""
        return min(max(self._waits_until - time.monotonic(), 0.0), _SLICE_SECONDS)

    @staticmethod
    def rest(since: float) -> None:
        """Sleep until calm traffic has had its time to become one batch; `since` is a time of `time.monotonic`."""
        time.sleep(max(since + _REST_SECONDS - time.monotonic(), 0.0))
