"""The connection to Redis, and the one place where the driver's errors become ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry

from usage_worker.errors import ForeignKeyError, StreamRefusedError, StreamUnavailableError, UnusableServerError
from usage_worker.printable import printable
from usage_worker.queue.last_id import WAY_OUT
from usage_worker.queue.own_keys import is_wrong_type
from usage_worker.queue.server import CLUSTER, facts_of
from usage_worker.queue.url import parse_redis_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.queue.server import Concern

TIMEOUT_SECONDS = 5.0
_OF_A_CLUSTER = (AskError, ClusterError, ClusterCrossSlotError)

# What to do, by a part of the driver's message.
_REMEDIES = (
    ("last possible ID", f"a producer chose the last possible id, so that a shard takes no entry any more; {WAY_OUT}"),
    ("replicas have the entries", "start the others, or lower USAGE_REDIS_REPLICAS; the events are sent again"),
    ("NOREPLICAS", "start the replicas that its min-replicas-to-write asks for"),
    ("read only replica", "name the primary in REDIS_URL"),
    ("certificate is not valid for", "name the host in REDIS_URL as its certificate does"),
    ("certificate verify failed", "name its authority in REDIS_URL: rediss://host?ssl_ca_certs=/path/ca.pem"),
    ("No such file", "does the socket or the certificate that REDIS_URL names exist, and is the server up?"),
    ("", "is REDIS_URL right and the server up?"),
)


class RedisConnection:
    """The connection of one process, opened at first use (never before a fork).

    Args:
        redis_url: the server.
        warn: called once with each threat to events on this server.
    """

    def __init__(self, redis_url: str, warn: Callable[[Concern], None] | None = None) -> None:
        address = parse_redis_url(redis_url)
        timeouts = {"socket_timeout": TIMEOUT_SECONDS}
        if "path" not in address.parameters:
            timeouts["socket_connect_timeout"] = TIMEOUT_SECONDS
        # No retries inside the client: the callers retry, and they know what a second attempt means.
        pool = ConnectionPool(
            address.connection_class, protocol=2, retry=Retry(NoBackoff(), 0), **(timeouts | address.parameters)
        )
        self._redis = redis.Redis.from_pool(pool)
        self._warn = warn
        self._accepted = False

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """Yield the driver's client, and translate what it raises.

        Raises:
            StreamUnavailableError: Redis refused, did not answer for 5 s, is full or cannot be reached.
            StreamRefusedError: this user may not do it.
            ForeignKeyError: a key holds something of another type than ours.
            UnusableServerError: it is of a kind or a version that we cannot use, or REDIS_URL cannot work.
        """
        try:
            if not self._accepted:
                self._accept()
            yield self._redis
        except RedisError as error:
            if isinstance(error, ReadOnlyError):
                # A primary was demoted: a new connection may lead to the new one.
                self._redis.connection_pool.disconnect()
            raise unavailable(error) from error

    def close(self) -> None:
        self._redis.close()

    def _accept(self) -> None:
        """Ask the server once what it is, where it lets us.

        Raises:
            UnusableServerError: it is of a kind or a version that we cannot use, or REDIS_URL cannot work.
        """
        try:
            facts = facts_of(self._redis)
        except (TypeError, ValueError, ArithmeticError) as error:  # of a value in the URL that only a connection uses
            raise UnusableServerError(
                f"the driver cannot connect with this REDIS_URL: {printable(str(error))}"
            ) from None
        if facts and facts.refusal:
            raise UnusableServerError(facts.refusal)
        self._accepted = True
        if facts and self._warn:
            for concern in facts.concerns:
                self._warn(concern)


def unavailable(error: RedisError) -> StreamUnavailableError:
    """Translate an error of the driver, or of one command in a pipeline."""
    if isinstance(error, _OF_A_CLUSTER) and not isinstance(error, MasterDownError):
        return UnusableServerError(CLUSTER)
    if isinstance(error, OutOfMemoryError):
        return StreamUnavailableError(
            "Redis is full; raise its maxmemory, or let `usage-worker drain` work off the backlog"
        )
    text = str(error)
    if is_wrong_type(error):
        return ForeignKeyError(f"{text}; find the program that writes keys `usage:…`, then rename or delete the key")
    if isinstance(error, NoPermissionError):
        return StreamRefusedError(f'{text}; grant what docs/operations.md lists for "Users" to the user of REDIS_URL')
    return StreamUnavailableError(f"{text}; {next(remedy for part, remedy in _REMEDIES if part in text)}")
