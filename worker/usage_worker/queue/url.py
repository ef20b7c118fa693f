"""REDIS_URL, parsed in one place for both clients: the stream's and Celery's.

A parameter is taken by both clients, ignored by both because they set it themselves, or refused by name.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError

from usage_worker.errors import SettingsError
from usage_worker.printable import printable
from usage_worker.urls import PLURAL_SCHEMES

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
# Of the Sentinels themselves, whose login may be another one than that of the servers they know.
_SENTINEL = "sentinel_"
_SENTINEL_ONLY = frozenset({f"{_SENTINEL}username", f"{_SENTINEL}password"})

Kind = Literal["server", "sentinel", "cluster"]
ConnectionClass = type[Connection | UnixDomainSocketConnection]
_PORTS: dict[Kind, int] = {"server": 6379, "sentinel": 26379, "cluster": 6379}


class RedisAddress(NamedTuple):
    """What a URL says.

    Attributes:
        kind: a single server, the Sentinels that know one, or nodes of a Cluster.
        hosts: host and port of the server, of each Sentinel or of each node; none of a Unix socket.
        parameters: those of a connection that both clients take; `host` and `port`, or `path`, of a single server only.
        connection_class: the driver's class for such a connection.
        sentinel_login: `username` and `password` at the Sentinels, where they want any.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    parameters: dict[str, Any]
    connection_class: ConnectionClass
    sentinel_login: dict[str, str]

    @property
    def tls(self) -> bool:
        return self.connection_class is SSLConnection


def parse_redis_url(redis_url: str, variable: str = "REDIS_URL") -> RedisAddress:
    """Parse a URL as the Redis client does; `variable` is where it was set.

    Raises:
        SettingsError: it cannot be read; the message names the wrong part, and quotes no value.
    """
    scheme, _, rest = redis_url.partition("://")
    if scheme not in PLURAL_SCHEMES:
        return _address("server", redis_url, variable)
    base, _, query = rest.partition("?")
    place, slash, path = base.partition("/")
    login, at, hosts = place.rpartition("@")
    if "@" not in query and (";" in hosts or not all(host.partition(":")[0] for host in hosts.split(","))):
        raise SettingsError(f"{variable}: write the hosts as {scheme}://one,two,three")
    kind: Kind = "cluster" if scheme.endswith("cluster") else "sentinel"
    plain = "rediss" if scheme.startswith("rediss") else "redis"
    found = [_address(kind, f"{plain}://{login}{at}{host}{slash}{path}?{query}", variable) for host in hosts.split(",")]
    if kind == "cluster" and found[0].parameters.pop("db", 0):
        raise SettingsError(f"{variable}: a Cluster has the database 0 only; leave out its number")
    return found[0]._replace(hosts=tuple(host for address in found for host in address.hosts))


_WRONG_PLACE = "the scheme, the host or the port is wrong; write / # ? @ in a password as %2F %23 %3F %40"


def _address(kind: Kind, redis_url: str, variable: str) -> RedisAddress:
    """Return the address in a URL of one host; of several, each has the same parameters."""
    base, _, query = redis_url.partition("?")
    wrong = _wrong_place(base) or next(
        filter(None, (_wrong_parameter(kind, base, part) for part in query.split("&"))), None
    )
    # Behind a ? that belongs to the password stands an @.
    if wrong and "@" in query:
        wrong = _WRONG_PLACE
    pairs = parse_qsl(query, keep_blank_values=True)
    given = "&".join(part for part in query.split("&") if not part.startswith(_SENTINEL))
    parsed = None if wrong else _parsed(f"{base}?{given}" if given else base)
    if parsed is None:
        raise SettingsError(f"{variable}: {wrong or _WRONG_PLACE}")
    parameters, connection_class = parsed
    host, port = parameters.get("host", "localhost"), parameters.get("port", _PORTS[kind])
    if kind != "server":
        parameters = {name: value for name, value in parameters.items() if name not in ("host", "port")}
    hosts = () if "path" in parameters else ((host, port),)
    sentinel_login = {name.removeprefix(_SENTINEL): value for name, value in pairs if name in _SENTINEL_ONLY}
    return RedisAddress(kind, hosts, parameters, connection_class, sentinel_login)


def _wrong_place(base: str) -> str | None:
    """Return what is wrong with a URL without parameters."""
    if _parsed(base) is None:
        return _WRONG_PLACE
    parts = urlsplit(base)
    if parts.scheme == "unix":
        return None if parts.path and not parts.hostname else "write a Unix socket as unix:///path/of/the.sock"
    number = parts.path.strip("/")
    return None if number.isdecimal() or not number else "the path is not the number of a database"


def _wrong_parameter(kind: Kind, base: str, part: str) -> str | None:
    """Return what is wrong with a parameter of the query, as `db=3`."""
    for name, _ in parse_qsl(part, keep_blank_values=True):
        if name in _SENTINEL_ONLY:
            return None if kind == "sentinel" else f"the parameter {name} is for redis+sentinel:// only"
        if name in _TLS_ONLY and not base.startswith("rediss:"):
            return f"the parameter {name} is for rediss{'' if kind == 'server' else f'+{kind}'}:// only"
        if name in _TCP_ONLY and base.startswith("unix:"):
            return f"the parameter {name} is not for a Unix socket"
        parsed = _parsed(f"{base}?{part}") if name in _KNOWN else None
        if parsed is None or not _within_bounds(name, parsed[0].get(name)):
            return f"the Redis driver does not know the parameter {printable(name)}, or not this value of it"
    return None


def _within_bounds(name: str, value: Any) -> bool:
    """Return whether a value can work; the driver takes any number."""
    if name in ("db", "health_check_interval"):
        return value is None or value >= 0
    return value is None or not name.endswith("_timeout") or 0 < value <= _LONGEST_TIMEOUT


def _parsed(redis_url: str) -> tuple[dict[str, Any], ConnectionClass] | None:
    """Return parameters and class, None if the driver does not understand the URL; its error quotes the password."""
    try:
        given = dict(parse_url(redis_url))  # type: ignore[no-untyped-call]
        kind = given.pop("connection_class", Connection)
        parameters = {name: value for name, value in given.items() if name not in _IGNORED}
        # A value that no connection takes shows only when one is made; it is not opened.
        kind(**parameters)
    except (TypeError, ValueError, RedisError):
        return None
    return parameters, kind
