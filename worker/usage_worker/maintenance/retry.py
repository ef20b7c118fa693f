"""Trying again: what lost a race, and what another process is doing already."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from usage_worker.errors import BusyError, ConcurrencyError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ATTEMPTS = 8
PAUSE_SECONDS = 0.1


def _growing(attempt: int) -> float:
    """Seconds to wait after an attempt that failed, more after each."""
    return random.uniform(0, PAUSE_SECONDS * attempt)  # noqa: S311 - jitter is no secret


def retry(
    step: Callable[[], T],
    wait_timeout: float = 0.0,
    attempts: int = ATTEMPTS,
    pause: Callable[[int], float] = _growing,
) -> T:
    """Take a step, a short transaction, until it goes through.

    Raises:
        BusyError: another process was at it for `patience` seconds.
        ConcurrencyError: it lost `attempts` races.
    """
    deadline, attempt = time.monotonic() + wait_timeout, 0
    while True:
        try:
            return step()
        except BusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE_SECONDS)
        except ConcurrencyError:
            attempt += 1
            if attempt == attempts:
                raise
            time.sleep(pause(attempt))
