"""What is known of calls that have started and not ended."""

from __future__ import annotations

from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
# More than any process has open at once; a framework that never ends a call must not fill the memory.
LIMIT = 10_000


class OpenCalls(Generic[K, V]):
    """The open calls by their id; beyond `LIMIT`, the oldest are forgotten.

    Safe to share between threads, without a lock, which another thread might hold when the process forks.
    """

    def __init__(self) -> None:
        self._calls: dict[K, V] = {}

    def begin(self, call_id: K, call: V) -> None:
        self._calls[call_id] = call
        while len(self._calls) > LIMIT:
            with suppress(RuntimeError, StopIteration):  # another thread has changed it meanwhile
                self._calls.pop(next(iter(self._calls)), None)

    def get(self, call_id: K) -> V | None:
        return self._calls.get(call_id)

    def end(self, call_id: K) -> V | None:
        """Forget a call and return what was known of it; None for one that is not open."""
        return self._calls.pop(call_id, None)
