"""REDIS_URL, parsed in one place for both clients: the stream's and Celery's."""

from __future__ import annotations

from typing import Any, NamedTuple

from redis.connection import ConnectionPool, SSLConnection, parse_url
from redis.exceptions import RedisError

from usage_worker.errors import SettingsError
from usage_worker.printable import printable


class RedisAddress(NamedTuple):
    """The Redis client's connection parameters, and whether they ask for TLS."""

    parameters: dict[str, Any]
    tls: bool


def parse_redis_url(redis_url: str) -> RedisAddress:
    """Parse a URL as the Redis client does.

    Raises:
        SettingsError: it cannot be read; the message names the wrong part.
    """
    parameters = _parsed(redis_url)
    if parameters is None:
        raise SettingsError(f"REDIS_URL: {_wrong_part(redis_url)}")
    return RedisAddress(parameters, tls=parameters.pop("connection_class", None) is SSLConnection)


def _parsed(redis_url: str) -> dict[str, Any] | None:
    """Return the client's parameters, None if it does not understand the URL; its own error quotes the password."""
    try:
        # A parameter that no connection takes shows only when one is made; it is not opened.
        ConnectionPool.from_url(redis_url).make_connection()
        return dict(parse_url(redis_url))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError):
        return None


def _wrong_part(redis_url: str) -> str:
    base, _, query = redis_url.partition("?")
    # Behind a ? that belongs to the password stands an @.
    if _parsed(base) is None or "@" in query:
        return "the scheme, the host or the port is wrong; write / # ? @ in a password as %2F %23 %3F %40"
    wrong = next(part for part in (*query.split("&"), query) if _parsed(f"{base}?{part}") is None)
    return f"the Redis driver does not know the parameter {printable(wrong.partition('=')[0])}, or not this value of it"
