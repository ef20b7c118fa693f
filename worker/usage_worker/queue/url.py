"""REDIS_URL, parsed in one place for both clients: the stream's and Celery's."""

from __future__ import annotations

from typing import Any, NamedTuple

from redis.connection import ConnectionPool, SSLConnection, parse_url

from usage_worker.errors import SettingsError


class RedisAddress(NamedTuple):
    """The Redis client's connection parameters, and whether they ask for TLS."""

    parameters: dict[str, Any]
    tls: bool


def parse_redis_url(redis_url: str) -> RedisAddress:
    """Parse a URL as the Redis client does.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        parameters = dict(parse_url(redis_url))  # type: ignore[no-untyped-call]
        # A parameter that no connection takes shows only when one is made; it is not opened.
        ConnectionPool.from_url(redis_url).make_connection()
    except (TypeError, ValueError):
        # The driver's error quotes the URL, which may hold a password.
        raise SettingsError("REDIS_URL is not one that the Redis driver understands") from None
    return RedisAddress(parameters, tls=parameters.pop("connection_class", None) is SSLConnection)
