"""A server that speaks Redis' protocol and answers each command as a test says."""

from __future__ import annotations

import socketserver
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOMY = b"$35\r\nused_memory:1\r\nmaxmemory:10000000\r\n\r\n"
ANSWERS = {"INFO": ROOMY, "TIME": b"*2\r\n$1\r\n0\r\n$1\r\n0\r\n", "XADD": b"$3\r\n1-1\r\n"}


@contextmanager
def scripted_redis(**answers: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the URL of a server, and its answers by command, which may be changed; others are answered with OK."""
    script = ANSWERS | answers

    class Handler(socketserver.StreamRequestHandler):
        @override
        def handle(self) -> None:
            while line := self.rfile.readline():
                words = [self._word() for _ in range(int(line[1:]))]
                self.wfile.write(script.get(words[0].decode(), b"+OK\r\n"))

        def _word(self) -> bytes:
            length = int(self.rfile.readline()[1:])
            return self.rfile.read(length + 2)[:-2]

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0", script
        server.shutdown()
