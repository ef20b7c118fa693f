"""An ASGI application, asked in this process, without a server and without its lifespan."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    body: bytes
    headers: dict[str, str]


async def ask(
    app: ASGIApp, method: str, path: str, body: bytes = b"", key: str = "", query: str = "", **other_headers: str
) -> Answer:
    """Send a request of JSON from this machine, with an API key, unless other headers say otherwise."""
    headers = {"host": "localhost", "content-type": "application/json", "authorization": f"Bearer {key}"}
    headers |= other_headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent), found)
