"""A log for a request path, which may fail thousands of times a second."""

from __future__ import annotations

import logging
import time

# The standard library's logger: the application decides where its libraries' logs go.
log = logging.getLogger("usage_worker.publisher")


class SparingLog:
    """Says one thing a second, at most."""

    def __init__(self) -> None:
        self._said_at = -1.0

    def __call__(self, level: int, message: str, *values: object) -> None:
        if time.monotonic() - self._said_at >= 1:
            self._said_at = time.monotonic()
            log.log(level, message, *values)
