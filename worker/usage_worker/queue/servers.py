"""The servers that hold the streams: the only one, the primary that Sentinels know, or the primaries of a Cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import ReadOnlyError, RedisError
from redis.retry import Retry

from usage_worker.queue.cluster_nodes import ClusterNodes
from usage_worker.queue.sentinel_master import SentinelMaster

if TYPE_CHECKING:
    from usage_worker.queue.url import RedisAddress

TIMEOUT_SECONDS = 5.0


class Servers(Protocol):
    """Where the keys are. The methods that look for a server raise RedisError or UnusableServerError."""

    def names(self) -> list[str]:
        """Return host and port of each server with keys, those that failed lately at the end; "" for the only one."""
        ...

    def named(self, name: str) -> redis.Redis:
        """Return the client of one of them."""
        ...

    def name_of(self, key: str) -> str:
        """Return the name of the server that holds a key, "" where none does."""
        ...

    def failed(self, name: str, error: RedisError) -> None:
        """Note why a server could not be used; where it says so, keys are elsewhere now."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


def servers_of(address: RedisAddress, master: str) -> Servers:
    """Return the servers behind a URL; `master` is the name that Sentinels have for the one with the streams."""
    timeouts = {"socket_timeout": TIMEOUT_SECONDS}
    if "path" not in address.parameters:
        timeouts["socket_connect_timeout"] = TIMEOUT_SECONDS
    # No retries inside the client: the callers retry, and they know what a second attempt means.
    options: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0), **timeouts, **address.parameters}
    if address.kind == "cluster":
        return ClusterNodes(address, options)
    if address.kind == "sentinel":
        return SentinelMaster(address, master, options)
    return _OnlyServer(address, options)


class _OnlyServer:
    """The server that REDIS_URL names."""

    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        self._client = redis.Redis.from_pool(ConnectionPool(address.connection_class, **options))

    def names(self) -> list[str]:
        return [""]

    def named(self, name: str) -> redis.Redis:  # noqa: ARG002 - it has none
        return self._client

    def name_of(self, key: str) -> str:  # noqa: ARG002 - it holds every key
        return ""

    def failed(self, name: str, error: RedisError) -> None:  # noqa: ARG002 - it has none
        if isinstance(error, ReadOnlyError):
            # A primary was demoted: a new connection may lead to the new one.
            self._client.connection_pool.disconnect()

    def close(self) -> None:
        self._client.close()
