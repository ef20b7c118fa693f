"""A service with OpenAI's interface for embeddings, with the vectors of the embedder `minilm`, and faults on demand."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from tests.http_servers import running
from usage_worker.embedders.minilm import MiniLM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "sk-s3cretword"
POISON = "poison"


class EmbeddingService(ThreadingHTTPServer):
    """Answers requests; each of `faults` is used up by one request, the first by the next one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.embedder = MiniLM()
        self.faults: list[Callable[[_Handler, dict[str, Any]], None]] = []
        self.batches: list[list[str]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, texts: list[str]) -> dict[str, Any]:
        vectors = self.embedder.embed(texts).tolist()
        items = [{"object": "embedding", "index": place, "embedding": it} for place, it in enumerate(vectors)]
        return {"object": "list", "model": "minilm", "data": items[::-1]}  # clients go by the index


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingService

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/embeddings" or self.headers["Authorization"] != f"Bearer {KEY}":
            self.reply(401, {"error": {"message": f"Incorrect API key provided: {self.headers['Authorization']}"}})
            return
        self.server.batches.append(request["input"])
        if self.server.faults:
            self.server.faults.pop(0)(self, request)
        elif any(POISON in text for text in request["input"]):
            self.reply(400, {"error": {"message": f"cannot embed {request['input']}"}})
        else:
            self.reply(200, self.server.answer(request["input"]))

    def reply(self, status: int, document: Any, **headers: str) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def embedding_service() -> Iterator[EmbeddingService]:
    with running(EmbeddingService()) as server:
        try:
            yield server
        finally:
            server.released.set()


def status(code: int, **headers: str) -> Callable[[_Handler, dict[str, Any]], None]:
    """Return a fault: an answer with this status, whose message quotes what was sent."""
    return lambda handler, request: handler.reply(code, {"error": {"message": str(request["input"])}}, **headers)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[_Handler, dict[str, Any]], None]:
    """Return a fault: an answer that was changed."""

    def fault(handler: _Handler, request: dict[str, Any]) -> None:
        answer = handler.server.answer(request["input"])
        change(answer)
        handler.reply(200, answer)

    return fault


def slow(handler: _Handler, _request: dict[str, Any]) -> None:
    """Answer nothing until the test ends."""
    handler.server.released.wait(30)


def drip(handler: _Handler, _request: dict[str, Any]) -> None:
    """Send a header that does not end, a byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(60):
        if handler.server.released.wait(0.1):
            break
        handler.wfile.write(b"a")


def cut(handler: _Handler, _request: dict[str, Any]) -> None:
    """Announce a long answer, send its beginning and close the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
