"""The comparison of a publisher's number of shards with that of the workers."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from usage_worker.errors import StreamUnavailableError
from usage_worker.publisher.rate_limited_log import say
from usage_worker.queue.processes import shards_of_workers

if TYPE_CHECKING:
    from usage_worker.queue.stream import EventStream

SECONDS_BETWEEN_CHECKS = 60.0


class ShardsWatch:
    """Warns once when the workers have another number of shards; looks once a minute, while events are sent."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._checked = float("-inf")
        self._warned: int | None = None

    def check(self) -> None:
        """Look again if a minute has passed."""
        if time.monotonic() - self._checked < SECONDS_BETWEEN_CHECKS:
            return
        self._checked = time.monotonic()
        # A user that may do nothing but XADD cannot read the number, and the next send reports an outage.
        with suppress(StreamUnavailableError):
            self._compare(shards_of_workers(self._stream.connection))

    def _compare(self, workers: int | None) -> None:
        if workers not in (None, self._stream.shards, self._warned):
            self._warned = workers
            say(
                logging.WARNING,
                "USAGE_STREAM_SHARDS is %d here, and the workers have %d shards: nobody reads the others",
                self._stream.shards,
                workers,
            )
