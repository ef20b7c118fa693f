"""The connection to Redis, and the one place where the driver's errors become ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError
from redis.retry import Retry

from usage_worker.errors import StreamUnavailableError
from usage_worker.queue.url import parse_redis_url

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 5.0


class RedisConnection:
    """The connection of one process, opened at first use (never before a fork)."""

    def __init__(self, redis_url: str) -> None:
        # Checked first: the driver's error for a wrong URL quotes it, and it may hold a password.
        parse_redis_url(redis_url)
        # No retries inside the client: the callers retry, and they know what a second attempt means.
        self._redis = redis.Redis.from_url(
            redis_url,
            protocol=2,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """Yield the driver's client, and translate what it raises.

        Raises:
            StreamUnavailableError: Redis refused, did not answer for 5 s, is full or cannot be reached.
        """
        try:
            yield self._redis
        except OutOfMemoryError as error:
            raise StreamUnavailableError(
                "Redis is full; raise its maxmemory, or let `usage-worker drain` work off the backlog"
            ) from error
        except RedisError as error:
            raise StreamUnavailableError(f"{error}; is REDIS_URL right and the server up?") from error

    def close(self) -> None:
        self._redis.close()
