"""Calls that wait for a server, on threads of their own number and for a limited time."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from anyio import fail_after, to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import CapacityLimiter

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
