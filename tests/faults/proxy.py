"""A proxy between the workers and PostgreSQL that cuts connections at chosen moments."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

Cut = Literal["before COMMIT", "after COMMIT"]
# COMMIT as a complete statement: in the client's message and in the server's answer.
COMMIT = b"COMMIT\x00"
# Only the transaction of a batch uses COPY; others are not cut.
BATCH = b"COPY "
CHUNK = 1 << 20


class Proxy:
    """A TCP proxy on a port of 127.0.0.1 for the server of a PostgreSQL URL.

    `cut_next` cuts the next connection that commits a batch: before the server receives COMMIT, or after the server has
    answered but before the client receives the answer. `unreachable` refuses and ends every connection; `silent` keeps
    them and forwards nothing.
    """

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: set[socket.socket] = set()
        self._open = threading.Event()
        self._open.set()
        self._refusing = False
        self._cut: Cut | None = None
        self._cuts = 0
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        user = self._url.username or "postgres"
        secret = f":{self._url.password}" if self._url.password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{port}{self._url.path}?sslmode=disable&gssencmode=disable"

    def cut_next(self, when: Cut) -> None:
        self._cut = when

    def has_cut(self, times: int) -> bool:
        return self._cuts >= times

    def cut_all(self) -> None:
        """End all connections at once."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        self._refusing = True
        self.cut_all()
        yield
        self._refusing = False

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def close(self) -> None:
        self._refusing = True
        self._open.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                continue
            if self._refusing:
                client.close()
            else:
                self._connections.add(client)
                threading.Thread(target=self._serve, args=(client,), name="proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # Here and not while accepting: a silent server keeps others waiting, too, even if it has ended meanwhile.
        self.wait_open()
        try:
            server = self._connect()
        except OSError:
            self._connections.discard(client)
            client.close()
            return
        self._connections.add(server)
        link = Link(self, client, server)
        for job in (link.to_server, link.to_client):
            threading.Thread(target=job, name="proxy", daemon=True).start()

    def _connect(self) -> socket.socket:
        query = parse_qs(self._url.query)
        host = query.get("host", [self._url.hostname or "127.0.0.1"])[0]
        port = self._url.port or int(query.get("port", ["5432"])[0])
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def take_cut(self, when: Cut) -> bool:
        """Return whether to cut at this moment, once for each `cut_next`."""
        if self._cut != when:
            return False
        self._cut = None
        self._cuts += 1
        return True

    def wait_open(self) -> None:
        self._open.wait()

    def forget(self, *connections: socket.socket) -> None:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections -= set(connections)


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._counting = self._committing = False

    def to_server(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(CHUNK):
                self._proxy.wait_open()
                self._counting |= BATCH in data
                if self._counting and COMMIT in data:
                    if self._proxy.take_cut("before COMMIT"):
                        break
                    self._counting, self._committing = False, True
                self._server.sendall(data)
        self._proxy.forget(self._client, self._server)

    def to_client(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(CHUNK):
                self._proxy.wait_open()
                if self._committing and COMMIT in data:
                    if self._proxy.take_cut("after COMMIT"):
                        break
                    self._committing = False
                self._client.sendall(data)
        self._proxy.forget(self._client, self._server)
