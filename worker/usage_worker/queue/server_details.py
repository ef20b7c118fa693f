"""What a server says about its memory and its disk; the doctor alone asks for so much."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.errors import StreamUnavailableError
from usage_worker.queue.url import parse_redis_url

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection


class ServerDetails(NamedTuple):
    """What INFO says: sizes in bytes, 0 as `limit` for none; and of CONFIG what this user may read, else None."""

    product: str
    """As `Valkey 9.1.2`."""
    used: int
    peak: int
    limit: int
    policy: str
    append_only: bool
    failed_writes: list[str]
    """The fields of INFO that say that the last write to the disk failed."""
    since_save: float
    """Seconds since the last snapshot, or the server's start."""
    unsaved: int
    """Changes since the last snapshot."""
    config: dict[str, str]


def server_details(connection: RedisConnection) -> ServerDetails:
    """Ask the server.

    Raises:
        StreamUnavailableError: it does not answer.
        StreamRefusedError: it does not let this user ask.
    """
    with connection.client() as client:
        info: dict[str, Any] = client.info()
        now = float(client.time()[0])
    states = ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
    return ServerDetails(
        product=f"{str(info.get('server_name', 'redis')).capitalize()} "
        f"{info.get('valkey_version', info.get('redis_version', ''))}",
        used=info.get("used_memory", 0),
        peak=info.get("used_memory_peak", 0),
        limit=info.get("maxmemory", 0),
        policy=info.get("maxmemory_policy", ""),
        append_only=bool(info.get("aof_enabled")),
        failed_writes=[name for name in states if info.get(name, "ok") != "ok"],
        since_save=max(now - info.get("rdb_last_save_time", now), 0.0),
        unsaved=info.get("rdb_changes_since_last_save", 0),
        config=_config(connection, "appendfsync") | _config(connection, "save") | _config(connection, "dir"),
    )


def is_local(redis_url: str) -> bool:
    """Return whether the server is reached by a socket, or by the loopback of this machine."""
    parameters = parse_redis_url(redis_url).parameters
    host = parameters.get("host", "localhost")
    try:
        return "path" in parameters or host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _config(connection: RedisConnection, name: str) -> dict[str, str]:
    """Return a setting, nothing where the server has no CONFIG, or does not let us read it."""
    try:
        with connection.client() as client:
            return {str(key): str(value) for key, value in client.config_get(name).items()}
    except StreamUnavailableError:
        return {}
