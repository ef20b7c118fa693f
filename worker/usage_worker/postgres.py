"""Connections to PostgreSQL: how DATABASE_URL is read, and the options that every connection has."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from usage_worker.errors import SettingsError

Connection = psycopg.Connection[tuple[Any, ...]]

# Unless the URL or the caller gives another one.
_CONNECT_SECONDS = 10
_OPTIONS: dict[str, Any] = {
    # Events may hold any text, whatever encoding the URL, PGCLIENTENCODING, the role or the database set.
    "client_encoding": "UTF8",
    # A server that vanishes without closing the connection (a failover, a cut cable) is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def parameters(database_url: str, **overrides: Any) -> dict[str, Any]:
    """Return the arguments of the driver's `connect`; the overrides replace those of the URL.

    Raises:
        SettingsError: the URL cannot be read.
    """
    try:
        given = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        # The driver quotes the part that it could not read, which may be the password.
        raise SettingsError("DATABASE_URL cannot be read; write / # ? @ % in a password as %2F %23 …") from None
    return {"connect_timeout": _CONNECT_SECONDS, **given, **_OPTIONS, **overrides}


def connect(database_url: str, **overrides: Any) -> Connection:
    """Open a connection in autocommit.

    Raises:
        SettingsError: the URL cannot be read.
        psycopg.Error: the server did not accept the connection.
    """
    return psycopg.connect(**parameters(database_url, **overrides), autocommit=True)
