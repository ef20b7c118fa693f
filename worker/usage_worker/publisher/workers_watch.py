"""The comparison of a publisher's number of shards, and of the namespace of its ids, with those of the workers."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from usage_worker.errors import StreamUnavailableError
from usage_worker.publisher.rate_limited_log import say
from usage_worker.queue.processes import namespace_of_workers, shards_of_workers

if TYPE_CHECKING:
    from uuid import UUID

    from usage_worker.queue.stream import EventStream

SECONDS_BETWEEN_CHECKS = 60.0


class WorkersWatch:
    """Warns once of each value that the workers have otherwise; looks once a minute, while events are sent.

    `namespace` is None where the publisher makes no ids.
    """

    def __init__(self, stream: EventStream, namespace: UUID | None) -> None:
        self._stream = stream
        self._namespace = namespace
        self._checked = float("-inf")
        self._warned: set[int | UUID] = set()

    def check(self) -> None:
        """Look again if a minute has passed."""
        if time.monotonic() - self._checked < SECONDS_BETWEEN_CHECKS:
            return
        self._checked = time.monotonic()
        # A user that may do nothing but XADD cannot read them, and the next send reports an outage.
        with suppress(StreamUnavailableError):
            self._compare_shards(shards_of_workers(self._stream.connection))
        if self._namespace:
            with suppress(StreamUnavailableError):
                self._compare_namespaces(namespace_of_workers(self._stream.connection), self._namespace)

    def _compare_shards(self, workers: int | None) -> None:
        if workers and self._differs(workers, self._stream.shards):
            effect = "stay empty" if self._stream.shards < workers else "are only looked at every 10 s"
            say(
                logging.WARNING,
                f"USAGE_STREAM_SHARDS is %d here, and the workers have %d shards: the others {effect}",
                self._stream.shards,
                workers,
            )

    def _compare_namespaces(self, workers: UUID | None, own: UUID) -> None:
        if workers and self._differs(workers, own):
            say(
                logging.WARNING,
                "USAGE_ID_NAMESPACE is %s here, and the workers have %s: the same id becomes two UUIDs",
                own,
                workers,
            )

    def _differs(self, workers: int | UUID, own: int | UUID) -> bool:
        """Return whether the workers have a value of which nobody was warned."""
        if workers == own or workers in self._warned:
            return False
        self._warned.add(workers)
        return True
