"""The servers of which a URL names several: each asked by itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from usage_worker.postgres import connect, server_count
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from usage_worker.postgres import Connection


class Server(NamedTuple):
    """A server of PostgreSQL; `place` is its host and port, or the folder of its socket."""

    place: str
    is_standby: bool
    is_read_only: bool
    clock: float
    """Its time, in seconds since 1970."""

    def __str__(self) -> str:
        kind = "standby" if self.is_standby else "read-only" if self.is_read_only else "primary"
        return f"{self.place}, {kind}"


def server_of(connection: Connection) -> Server:
    """Return the server of a connection."""
    info, row = connection.info, connection.execute(query("server_state")).fetchone() or (False, False, 0.0)
    return Server(_place(info.host, str(info.port)), *row)


def each_server(database_url: str, *, pooled: bool) -> dict[str, Server | None]:
    """Ask each server of a URL by its place, where it names several; None for one that does not answer."""
    given = conninfo_to_dict(database_url)
    if server_count(given) == 1 or "," not in (hosts := str(given.get("host") or given.get("hostaddr") or "")):
        return {}
    by = "host" if given.get("host") else "hostaddr"
    addresses, ports = str(given.pop("hostaddr", None) or "").split(","), str(given.get("port") or "5432").split(",")
    found: dict[str, Server | None] = {}
    for number, host in enumerate(hosts.split(",")):
        port = ports[number % len(ports)]
        alone: dict[str, Any] = {by: host, "port": port, "target_session_attrs": "any", "connect_timeout": 2}
        if by == "host" and len(addresses) > number and addresses[number]:
            alone["hostaddr"] = addresses[number]
        found[_place(host, port)] = None
        with suppress(psycopg.Error), connect(make_conninfo("", **{**given, **alone}), pooled=pooled) as connection:
            found[_place(host, port)] = server_of(connection)
    return found


def _place(host: str, port: str) -> str:
    return host if host.startswith("/") else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
