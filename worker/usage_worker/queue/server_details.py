"""What a server says about its memory and its disk; the doctor alone asks for so much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.errors import StreamUnavailableError
from usage_worker.loopback import is_loopback
from usage_worker.queue.server import facts_in
from usage_worker.queue.url import parse_redis_url

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection
    from usage_worker.queue.server import ServerFacts


class ServerDetails(NamedTuple):
    """What INFO says: sizes in bytes, 0 as `limit` for none; and of CONFIG what this user may read, else None."""

    facts: ServerFacts
    used: int
    peak: int
    limit: int
    failed_writes: list[str]
    """The fields of INFO that say that the last write to the disk failed."""
    since_save: float
    """Seconds since the last snapshot, or the server's start."""
    unsaved: int
    """Changes since the last snapshot."""
    append_fsync: str | None
    folder: str | None
    """Where the server keeps its files."""


def server_details(connection: RedisConnection, name: str) -> ServerDetails:
    """Ask one of the servers.

    Raises:
        StreamUnavailableError: it does not answer.
        StreamRefusedError: it does not let this user ask.
    """
    with connection.server(name) as client:
        info: dict[str, Any] = client.info()
        now = float(client.time()[0])
    config = _config(connection, name, "appendfsync", "dir")
    states = ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
    return ServerDetails(
        facts=facts_in(info),
        used=info.get("used_memory", 0),
        peak=info.get("used_memory_peak", 0),
        limit=info.get("maxmemory", 0),
        failed_writes=[name for name in states if info.get(name, "ok") != "ok"],
        since_save=max(now - info.get("rdb_last_save_time", now), 0.0),
        unsaved=info.get("rdb_changes_since_last_save", 0),
        append_fsync=config.get("appendfsync"),
        folder=config.get("dir"),
    )


def is_local(redis_url: str) -> bool:
    """Return whether the servers are reached by a socket, or by the loopback of this machine."""
    return all(is_loopback(host) for host, _ in parse_redis_url(redis_url).hosts)


def _config(connection: RedisConnection, server: str, *names: str) -> dict[str, str]:
    """Return settings, nothing where the server has no CONFIG, or does not let us read it."""
    try:
        with connection.server(server) as client:
            return {str(key): str(value) for key, value in client.config_get(*names).items()}
    except StreamUnavailableError:
        return {}
