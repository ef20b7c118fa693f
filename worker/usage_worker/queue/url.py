"""REDIS_URL, parsed in one place for both clients: the stream's and Celery's.

A parameter is taken by both clients, ignored by both because they set it themselves, or refused by name.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError

from usage_worker.errors import SettingsError
from usage_worker.printable import printable

# Of these, Celery's client takes the first not for a Unix socket, and the stream's not the second.
_TCP_ONLY = frozenset({"socket_connect_timeout", "socket_keepalive"})
_TLS_ONLY = frozenset(
    f"ssl_{name}"
    for name in (
        *("ca_certs", "ca_path", "ca_data", "certfile", "keyfile", "password"),
        *("cert_reqs", "check_hostname", "min_version", "ciphers"),
    )
)
_TAKEN = frozenset({"username", "password", "db", "socket_timeout", "health_check_interval", "client_name"})
# How replies are read and what is tried again: our clients set it themselves, and a URL that is shared with other
# programs may have it.
_IGNORED = frozenset(
    {"protocol", "legacy_responses", "decode_responses", "encoding", "encoding_errors"}
    | {"retry_on_timeout", "retry_on_error"}
)
# A day in seconds; much more than a month overflows the kernel's type.
_LONGEST_TIMEOUT = 86_400
_KNOWN = _TAKEN | _TCP_ONLY | _TLS_ONLY | _IGNORED


class RedisAddress(NamedTuple):
    """The parameters of a connection that both clients take, and the driver's class for it."""

    parameters: dict[str, Any]
    connection_class: type[Connection | UnixDomainSocketConnection]

    @property
    def tls(self) -> bool:
        return self.connection_class is SSLConnection


def parse_redis_url(redis_url: str) -> RedisAddress:
    """Parse a URL as the Redis client does.

    Raises:
        SettingsError: it cannot be read; the message names the wrong part, and quotes no value.
    """
    base, _, query = redis_url.partition("?")
    wrong = _wrong_place(base) or next(filter(None, (_wrong_parameter(base, part) for part in query.split("&"))), None)
    # Behind a ? that belongs to the password stands an @.
    if wrong and "@" in query:
        wrong = _WRONG_PLACE
    address = None if wrong else _parsed(redis_url)
    if address is None:
        raise SettingsError(f"REDIS_URL: {wrong or _WRONG_PLACE}")
    return address


_WRONG_PLACE = "the scheme, the host or the port is wrong; write / # ? @ in a password as %2F %23 %3F %40"


def _wrong_place(base: str) -> str | None:
    """Return what is wrong with a URL without parameters."""
    if _parsed(base) is None:
        return _WRONG_PLACE
    parts = urlsplit(base)
    if parts.scheme == "unix":
        return None if parts.path and not parts.hostname else "write a Unix socket as unix:///path/of/the.sock"
    number = parts.path.strip("/")
    return None if number.isdecimal() or not number else "the path is not the number of a database"


def _wrong_parameter(base: str, part: str) -> str | None:
    """Return what is wrong with a parameter of the query, as `db=3`."""
    for name, _ in parse_qsl(part, keep_blank_values=True):
        if name in _TLS_ONLY and not base.startswith("rediss:"):
            return f"the parameter {name} is for rediss:// only"
        if name in _TCP_ONLY and base.startswith("unix:"):
            return f"the parameter {name} is not for a Unix socket"
        address = _parsed(f"{base}?{part}") if name in _KNOWN else None
        if address is None or not _within_bounds(name, address.parameters.get(name)):
            return f"the Redis driver does not know the parameter {printable(name)}, or not this value of it"
    return None


def _within_bounds(name: str, value: Any) -> bool:
    """Return whether a value can work; the driver takes any number."""
    if name in ("db", "health_check_interval"):
        return value is None or value >= 0
    return value is None or not name.endswith("_timeout") or 0 < value <= _LONGEST_TIMEOUT


def _parsed(redis_url: str) -> RedisAddress | None:
    """Return the parameters, None if the driver does not understand the URL; its own error quotes the password."""
    try:
        given = dict(parse_url(redis_url))  # type: ignore[no-untyped-call]
        kind = given.pop("connection_class", Connection)
        parameters = {name: value for name, value in given.items() if name not in _IGNORED}
        # A value that no connection takes shows only when one is made; it is not opened.
        kind(**parameters)
    except (TypeError, ValueError, RedisError):
        return None
    return RedisAddress(parameters, kind)
