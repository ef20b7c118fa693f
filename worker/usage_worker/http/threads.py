"""Calls that wait for a server, on threads of their own number and for a limited time."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def within(seconds: float, call: Callable[[], T], limiter: CapacityLimiter) -> T:
    """Return the result of a call in a thread.

    PostgreSQL's own limits of time do not count where it stands still, or is cut off. The thread then waits on by
    itself, and holds its connection; the pool refuses a connection to those after it.

    Raises:
        TimeoutError: it takes longer.
    """
    with fail_after(seconds):
        return await to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)


class SharedThreads:
    """A number of threads, of which the calls of one API key have half; its further ones wait for each other."""

    def __init__(self, number: int) -> None:
        self._threads = CapacityLimiter(number)
        self._of_key = defaultdict[str, CapacityLimiter](lambda: CapacityLimiter(number // 2))

    async def within(self, seconds: float, call: Callable[[], T], key: str | None) -> T:
        """Return the result of a call, as the function `within`; the time includes that for which it waits.

        Without keys, all requests come from this machine, and share every thread.
        """
        if key is None:
            return await within(seconds, call, self._threads)
        with fail_after(seconds):
            async with self._of_key[key]:
                return await within(seconds, call, self._threads)
