"""A TCP proxy before Redis that behaves as networks do: it hangs, resets connections, or lets single bytes through."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

# `deaf` lets the commands through and keeps the answers, so that whoever sent them cannot know what has arrived.
Mode = Literal["good", "hang", "deaf", "reset", "trickle"]
CHUNK = 1 << 16
# Close with RST instead of FIN.
ABORT = struct.pack("ii", 1, 0)


class BadNetwork:
    """The proxy; `mode` may be changed at any time."""

    def __init__(self, redis_url: str) -> None:
        self.mode: Mode = "good"
        self._target = urlsplit(redis_url)
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        database = parse_qs(self._target.query).get("db", [self._target.path.lstrip("/") or "0"])[0]
        if self._target.scheme == "unix" and not database.isdigit():
            database = "0"
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/{database}?socket_timeout=0.3"

    def accept(self) -> None:
        """Serve connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                for source, sink, answers in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._forward, args=(source, sink, answers), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connect(self) -> socket.socket:
        if self._target.scheme == "unix":
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target.path)
            return server
        return socket.create_connection((self._target.hostname, self._target.port or 6379))

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(CHUNK):
                mode = self.mode
                if mode == "reset" and not answers:
                    sink.sendall(data[: len(data) // 2])
                    source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                    return
                if mode == "trickle" and answers:
                    for byte in data:
                        sink.sendall(bytes([byte]))
                elif mode == "good" or (mode == "deaf" and not answers) or mode == "trickle":
                    sink.sendall(data)


@contextmanager
def bad_network(redis_url: str) -> Iterator[BadNetwork]:
    """Run the proxy during the block."""
    network = BadNetwork(redis_url)
    thread = threading.Thread(target=network.accept, daemon=True)
    thread.start()
    try:
        yield network
    finally:
        network.close()
        thread.join()
