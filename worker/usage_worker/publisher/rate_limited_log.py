"""Logging for a request path, which may fail thousands of times per second."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from usage_worker.printable import REASON_LENGTH, printable

# The standard library's logger: the application decides where its libraries' logs go.
log = logging.getLogger("usage_worker.publisher")


def say(level: int, message: str, *values: object) -> None:
    """Log a message with escaped and cut values; never raise, whatever the application's handlers and filters do."""
    with suppress(Exception):
        shown = (value if isinstance(value, int | float) else printable(str(value), REASON_LENGTH) for value in values)
        log.log(level, message, *shown)


class RateLimitedLog:
    """Log one message per second, at most."""

    def __init__(self) -> None:
        self._logged_at = float("-inf")

    def __call__(self, level: int, message: str, *values: object) -> None:
        if time.monotonic() - self._logged_at >= 1:
            self._logged_at = time.monotonic()
            say(level, message, *values)
