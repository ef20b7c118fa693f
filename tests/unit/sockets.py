"""Addresses of a Redis that refuses connections, or that accepts them and never answers."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def url_of(server: socket.socket) -> str:
    return f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def refusing_url() -> str:
    """Return the address of a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return url_of(server)


@contextmanager
def silent_server() -> Iterator[socket.socket]:
    """Listen on a port; `accept` waits at most a minute for a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server
