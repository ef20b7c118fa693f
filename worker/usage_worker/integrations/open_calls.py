"""What is known of calls that have started and not ended."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
# More than any process has open at once; a framework that never ends a call must not fill the memory.
LIMIT = 10_000


class OpenCalls(Generic[K, V]):
    """The open calls by their id; beyond `LIMIT`, the oldest are forgotten."""

    def __init__(self) -> None:
        self._calls: dict[K, V] = {}
        self._lock = threading.Lock()

    def begin(self, call_id: K, call: V) -> None:
        with self._lock:
            self._calls[call_id] = call
            if len(self._calls) > LIMIT:
                del self._calls[next(iter(self._calls))]

    def get(self, call_id: K) -> V | None:
        return self._calls.get(call_id)

    def end(self, call_id: K) -> V | None:
        """Forget a call and return what was known of it; None for one that is not open."""
        with self._lock:
            return self._calls.pop(call_id, None)
