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
    """Log each message once per second, at most; an outage that is logged must not hide that events are dropped."""

    def __init__(self) -> None:
        # By the message, without its values.
        self._logged_at: dict[str, float] = {}

    def __call__(self, level: int, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(message, float("-inf")) >= 1:
            self._logged_at[message] = now
            say(level, message, *values)
