"""Retry statements and transactions that lost a race for a lock."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from usage_worker.migrate.connection import one_line
from usage_worker.postgres import LOST_RACES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RETRY_SECONDS = 120.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


T = TypeVar("T")


def retried(attempt: Callable[[], T], retrying: Callable[[str], None]) -> T:
    """Retry lost races for up to `RETRY_SECONDS`: a short lock_timeout lets clients go first.

    Args:
        attempt: what is tried; it must roll back when it fails.
        retrying: called with the error's message before each pause.

    Raises:
        psycopg.Error: the last error, if the time is over; any error that is not in `LOST_RACES`, at once.
    """
    pauses = _pauses()
    while True:
        try:
            return attempt()
        except LOST_RACES as error:
            pause = next(pauses, None)
            if pause is None:
                raise
            retrying(one_line(error))
            time.sleep(pause)


def _pauses() -> Iterator[float]:
    """Yield growing pauses with jitter, so that two sessions do not collide again, for `RETRY_SECONDS`."""
    deadline = time.monotonic() + RETRY_SECONDS
    pause = FIRST_PAUSE
    while time.monotonic() < deadline:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter needs no secret
        pause = min(2 * pause, LONGEST_PAUSE)
