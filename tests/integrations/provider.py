"""A server that answers like a provider's, with what such a provider has answered."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from select import select
from typing import TYPE_CHECKING

from tests.http_servers import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

RESPONSES = Path(__file__).parent / "responses"
# A request for this model fails.
FAILING = "gpt-unavailable"
# The stream of an answer to this question ends when its reader leaves.
UNENDING = "What is there?"
_FAILURE = json.dumps({"error": {"message": "The server had an error", "type": "server_error"}}).encode()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(request)

    def do_GET(self) -> None:
        self._answer({})

    def _answer(self, request: dict[str, object]) -> None:
        name = next(file.stem for file in RESPONSES.glob("*.json") if f"/{file.stem}" in self.path)
        kind = "sse" if request.get("stream") else "json"
        failing = request.get("model") == FAILING
        body = _FAILURE if failing else (RESPONSES / f"{name}.{kind}").read_bytes()
        self.send_response(500 if failing else 200)
        self.send_header("Content-Type", "text/event-stream" if kind == "sse" else "application/json")
        if UNENDING in json.dumps(request):
            self.end_headers()
            self._repeat(body)
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def _repeat(self, body: bytes) -> None:
        """Send the first chunks again and again until the connection is closed."""
        chunks = b"\n\n".join(body.split(b"\n\n")[:2]) + b"\n\n"
        with suppress(OSError):
            while not select([self.connection], [], [], 0.02)[0]:
                self.wfile.write(chunks)

    def log_message(self, *_: object) -> None:
        """Leave the output to the tests."""


def provider() -> AbstractContextManager[str]:
    """Run the server, and return its URL."""
    return serving(_Handler)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server on this machine, and yield its URL."""
    with running(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"
