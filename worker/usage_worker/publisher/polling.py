"""Waiting in an event loop: that of asyncio, or trio's where the caller runs in it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Seconds between two checks: the first is repeated soon, since Redis answers in less than a millisecond.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.05


async def poll(done: Callable[[], bool], timeout: float) -> bool:  # noqa: ASYNC109 - no exception where it is over
    """Wait until `done`, which must not block; return False after `timeout` seconds.

    A thread that waits would outlast a cancelled task, and asyncio.run waits for such threads.
    """
    deadline = time.monotonic() + timeout
    pause = SHORTEST_PAUSE
    sleep = _sleep()
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        await sleep(min(pause, left))
        pause = min(pause * 2, LONGEST_PAUSE)
    return True


def _sleep() -> Callable[[float], Awaitable[None]]:
    trio: Any = sys.modules.get("trio")
    if trio and trio.lowlevel.in_trio_run():
        return trio.sleep  # type: ignore[no-any-return]
    from asyncio import sleep  # noqa: PLC0415 - whoever awaits has loaded it

    return sleep
