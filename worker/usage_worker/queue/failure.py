"""The last failure of each shard's flush, noted for `usage-worker status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

# Longer than a worker needs to fail again, so that a noted failure outlasts the flushes that find nothing to read.
FAILURE_SECONDS = 300


class Failure(NamedTuple):
    """The error of a shard's last flush, and how many seconds ago it was noted."""

    error: str
    seconds: float


class FlushFailures:
    """The failures by shard. Every method raises StreamUnavailableError."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def note(self, shard: int, error: str) -> None:
        """Keep an error until entries are `done` or for `FAILURE_SECONDS`; a full Redis refuses it."""
        with self._connection.client() as client:
            client.set(failure_key(shard), error.encode(errors="backslashreplace"), ex=FAILURE_SECONDS)

    def last(self, shard: int) -> Failure | None:
        """Return the failure that was noted last, None where entries were `done` since."""
        with self._connection.client() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.get(failure_key(shard))
            pipeline.pttl(failure_key(shard))
            error, left = pipeline.execute()
        # Its age by Redis' own clock: the part of its lifetime that has passed.
        return None if error is None else Failure(error.decode(), max(FAILURE_SECONDS - left / 1000, 0.0))


def failure_key(shard: int) -> str:
    """Return the key of a shard's failure."""
    return f"usage:failure:{{{shard}}}"
