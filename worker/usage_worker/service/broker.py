"""Celery's connection to its broker: the server of USAGE_BROKER_URL, or else of REDIS_URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.transport import redis
from kombu.utils.url import maybe_sanitize_url

from usage_worker.errors import SettingsError
from usage_worker.printable import printable
from usage_worker.queue.servers import TIMEOUT_SECONDS
from usage_worker.queue.url import parse_redis_url
from usage_worker.service.transport import NotingSentinelTransport, NotingTransport
from usage_worker.settings import DEFAULT_MASTER
from usage_worker.urls import PLURAL_SCHEMES, REDIS_SCHEMES

if TYPE_CHECKING:
    from usage_worker.queue.url import RedisAddress
    from usage_worker.settings import Settings

BROKER_VARIABLE = "USAGE_BROKER_URL"
# A message that a worker took and never acknowledged is delivered again after 30 s (by default an hour), plus the 10 s
# after which kombu looks (by default at every tenth occasion). A task of ours acknowledges when it begins, or has
# appended its events by then, and may be delivered twice.
REDELIVERY = {"visibility_timeout": 30, "unacked_restore_throttle": 1}
# What kombu takes as an option of the transport instead of a part of the URL.
_OPTIONS = ("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval", "client_name")
# By default a server or a Sentinel that hangs is waited for without an end, also after its replica was promoted.
_TIMEOUTS = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
# kombu sees after 6 to 11 s that the primary at which a worker waits for messages hangs, by default after 26 to 51 s.
_TRANSPORT_OPTIONS = REDELIVERY | _TIMEOUTS | {"health_check_interval": 5}
_OURS: dict[type, type] = {redis.Transport: NotingTransport, redis.SentinelTransport: NotingSentinelTransport}
_CLUSTER = "Celery cannot use a Redis Cluster for its messages"


class OwnConnection(Connection):
    """A connection that drops no message of a Redis, and whose description omits every password.

    `celery inspect stats` prints the description without `password`, and Flower shows it.
    """

    def get_transport_cls(self) -> type:
        """Return our transport instead of kombu's where we have one."""
        given: type = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return _OURS.get(given, given)

    def info(self) -> dict[str, Any]:
        """Return the description."""
        shown: dict[str, Any] = super().info()  # type: ignore[no-untyped-call]
        for name, secret in (("transport_options", "sentinel_kwargs"), ("ssl", "ssl_password")):
            if isinstance(shown[name], dict):
                shown[name] = {key: value for key, value in shown[name].items() if key != secret}
        alternates = [maybe_sanitize_url(url) for url in self.alt]
        return shown | {"hostname": maybe_sanitize_url(self.hostname), "alternates": alternates}


class OwnAMQP(AMQP):  # type: ignore[misc]
    """Celery's use of the broker, with connections of ours."""

    Connection = OwnConnection


def broker_of(settings: Settings) -> dict[str, Any]:
    """Return Celery's settings for its broker.

    Raises:
        SettingsError: the URL cannot be read, or names what Celery cannot use.
    """
    if settings.has_own_broker:
        return broker_settings(settings.broker_url, settings.broker_master or DEFAULT_MASTER, BROKER_VARIABLE)
    if parse_redis_url(settings.redis_url).kind == "cluster":
        raise SettingsError(
            f"{BROKER_VARIABLE} is not set, and {_CLUSTER}, which REDIS_URL names; "
            f"export {BROKER_VARIABLE}=redis://another-host"
        )
    return broker_settings(settings.redis_url, settings.broker_master or settings.redis_master)


def broker_settings(url: str, master: str = DEFAULT_MASTER, variable: str = "REDIS_URL") -> dict[str, Any]:
    """Return Celery's settings for the broker of a URL; `master` is what Sentinels call it.

    Raises:
        SettingsError: the URL, which stands in `variable`, cannot be read, or names what Celery cannot use.
    """
    if url.partition("://")[0] not in (*REDIS_SCHEMES, *PLURAL_SCHEMES) or ";" in url:
        return _as_celery_spells_it(url, master, variable)
    address = parse_redis_url(url, variable)
    if address.kind == "cluster":
        raise SettingsError(f"{variable}: {_CLUSTER}; name a single server, Sentinels, or a broker of another kind")
    options = _TRANSPORT_OPTIONS | {key: address.parameters[key] for key in _OPTIONS if key in address.parameters}
    # By default kombu would verify nothing; these are the defaults of the Redis client.
    tls = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    tls |= {key: value for key, value in address.parameters.items() if key.startswith("ssl_")}
    if address.kind == "sentinel":
        of_sentinels = _TIMEOUTS | address.sentinel_login | ({"ssl": True, **tls} if address.tls else {})
        options |= {"master_name": master, "sentinel_kwargs": of_sentinels}
    settings = {"broker_url": _url(address), "broker_transport_options": options}
    return settings | ({"broker_use_ssl": tls} if address.tls else {})


def _url(address: RedisAddress) -> str:
    given = address.parameters
    user, password, database = given.get("username", ""), given.get("password", ""), given.get("db", 0)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    if path := given.get("path"):
        return f"redis+socket://{login}{quote(path)}?virtual_host={database}"
    scheme = "sentinel" if address.kind == "sentinel" else "rediss" if address.tls else "redis"
    places = ((f"[{host}]" if ":" in host else quote(host), port) for host, port in address.hosts)
    return ";".join(f"{scheme}://{login}{place}:{port}/{database}" for place, port in places)


def _as_celery_spells_it(url: str, master: str, variable: str) -> dict[str, Any]:
    scheme = url.partition("://")[0]
    try:
        transport = Connection(url).get_transport_cls()  # type: ignore[no-untyped-call]
    except KeyError:
        raise SettingsError(f"{variable}: Celery does not speak {printable(scheme)}://") from None
    except ImportError as error:
        raise SettingsError(f"{variable}: {scheme}:// needs another package: {printable(str(error))}") from None
    except ValueError:  # its text may be a part of the password
        raise SettingsError(
            f"{variable}: the host or the port is wrong; write / # ? @ in a password as %2F %23 %3F %40"
        ) from None
    if not issubclass(transport, redis.Transport):
        return {"broker_url": url}
    by_sentinel = {"master_name": master, "sentinel_kwargs": _TIMEOUTS}
    options = _TRANSPORT_OPTIONS | (by_sentinel if issubclass(transport, redis.SentinelTransport) else {})
    return {"broker_url": url, "broker_transport_options": options}
