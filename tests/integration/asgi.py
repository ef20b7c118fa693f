"""An ASGI application, asked in this process, without a server and without its lifespan."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    body: bytes


async def ask(app: ASGIApp, method: str, path: str, body: bytes = b"", key: str = "") -> Answer:
    """Send a request of JSON from this machine, with an API key."""
    headers = {"host": "localhost", "content-type": "application/json", "authorization": f"Bearer {key}"}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent))
