"""Places for the requests that a process answers at the same time, of which no key takes all."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Places:
    """A number of places. A key gets another one only while it holds fewer than are free: at most half, rounded up.

    Of 64, the first busy key gets 32, the next one 16. Requests without a key, all of which come from this machine, may
    take every place.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._held = Counter[str | None]()

    def has_room(self, key: str | None) -> bool:
        """Return whether a request with this key may take a place."""
        return self._free > (self._held[key] if key else 0)

    @contextmanager
    def taken(self, key: str | None) -> Iterator[None]:
        """Hold a place, which the caller has seen to be free."""
        self._free -= 1
        self._held[key] += 1
        try:
            yield
        finally:
            self._free += 1
            self._held[key] -= 1
