"""Retry short transactions that lost a race or found another process at work."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from usage_worker.errors import BusyError, ConcurrencyError, LockHeldError, RecoveryConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ATTEMPTS = 8
PAUSE_SECONDS = 0.1


def _growing(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt, more after each."""
    return random.uniform(0, PAUSE_SECONDS * attempt)  # noqa: S311 - jitter is no secret


def retry(
    step: Callable[[], T],
    wait_timeout: float = 0.0,
    attempts: int = ATTEMPTS,
    pause: Callable[[int], float] = _growing,
) -> T:
    """Repeat a step, a short transaction, until it succeeds.

    Args:
        step: the step.
        wait_timeout: seconds to wait for another process that is at work, or for others who hold what a step needs.
        attempts: number of lost races after which to give up.
        pause: returns the seconds to wait after each lost race, by its number.

    Raises:
        BusyError: another process was still at work after `wait_timeout` seconds.
        LockHeldError: others held what the step needs for `wait_timeout` seconds, and for `attempts` more.
        ConcurrencyError: the step lost `attempts` races.
        RecoveryConflictError: the replica has cancelled a query of the step too often.
    """
    deadline, attempt = time.monotonic() + wait_timeout, 0
    while True:
        try:
            return step()
        except BusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE_SECONDS)
        except RecoveryConflictError:
            raise  # `Store.read` has repeated the query
        except ConcurrencyError as error:
            # What others hold is waited for; until then it is no attempt.
            if not (isinstance(error, LockHeldError) and time.monotonic() < deadline):
                attempt += 1
            if attempt == attempts:
                raise
            time.sleep(pause(max(attempt, 1)))
