"""Celery's connection to the Redis that REDIS_URL names."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.utils.url import maybe_sanitize_url

from usage_worker.queue.url import parse_redis_url
from usage_worker.service.transport import NotingTransport

# A message that a worker took and never acknowledged is delivered again after 30 s (by default an hour), plus the 10 s
# after which kombu looks (by default at every tenth occasion). A task of ours acknowledges when it begins, or has
# appended its events by then, and may be delivered twice.
REDELIVERY = {"visibility_timeout": 30, "unacked_restore_throttle": 1}
# What kombu takes as an option of the transport instead of a part of the URL.
_OPTIONS = ("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval", "client_name")


class _OwnConnection(Connection):
    """A connection that drops no message, and whose description omits the password in the URL of a Unix socket.

    `celery inspect stats` prints the description, and Flower shows it.
    """

    def get_transport_cls(self) -> type:
        return NotingTransport

    def info(self) -> dict[str, Any]:
        return {**super().info(), "hostname": maybe_sanitize_url(self.hostname)}  # type: ignore[no-untyped-call]


class OwnAMQP(AMQP):  # type: ignore[misc]
    """Celery's use of the broker, with connections of ours."""

    Connection = _OwnConnection


def broker_settings(redis_url: str) -> dict[str, Any]:
    """Return Celery's settings for the Redis of a URL.

    Raises:
        SettingsError: the URL cannot be read.
    """
    address = parse_redis_url(redis_url)
    given = address.parameters
    user, password, database = given.get("username", ""), given.get("password", ""), given.get("db", 0)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    options = {key: given[key] for key in _OPTIONS if key in given}
    settings = {"broker_transport_options": {**REDELIVERY, **options}}
    if path := given.get("path"):
        return settings | {"broker_url": f"redis+socket://{login}{quote(path)}?virtual_host={database}"}
    host, port = given.get("host", "localhost"), given.get("port", 6379)
    place = f"[{host}]" if ":" in host else quote(host)
    url = f"://{login}{place}:{port}/{database}"
    if not address.tls:
        return settings | {"broker_url": f"redis{url}"}
    # By default kombu would verify nothing; these are the defaults of the Redis client.
    tls = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    tls |= {key: value for key, value in given.items() if key.startswith("ssl_")}
    return settings | {"broker_url": f"rediss{url}", "broker_use_ssl": tls}


def broker_url(redis_url: str) -> str:
    """Return the URL of the same Redis as Celery spells it."""
    url: str = broker_settings(redis_url)["broker_url"]
    return url
