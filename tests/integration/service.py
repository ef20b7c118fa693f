"""`usage-worker serve` as a process, and a client for it."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from tests.helpers import environment_without, eventually
from tests.integration.commands import PROGRAM
from usage_worker.http.keys import Right, make_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from http.client import HTTPMessage
    from pathlib import Path

WRITER, READER = make_key("writer", Right.WRITE), make_key("reader", Right.READ)
KEYS = f"{WRITER[1]}, {READER[1]}"
JSON = "application/json"
# Users of the shards 0 and 1.
USERS = str(UUID(int=2)), str(UUID(int=3))
AGENT = str(UUID(int=7))
EVENT = {"user_id": USERS[0], "agent_id": AGENT}


class Reply(NamedTuple):
    """An answer; `json` is its parsed body, None where it is not JSON."""

    status: int
    headers: HTTPMessage
    json: Any
    text: str


@dataclass(frozen=True)
class Service:
    """A running service."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    root: str = ""

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send a request; underscores in the names of headers are hyphens."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, self.root + path, body, named)
            return _reply(connection)

    def post(self, events: Any, kind: str = JSON, key: str = WRITER[0], **headers: str) -> Reply:
        """Send events, as bytes or as what is to be JSON."""
        body = events if isinstance(events, bytes) else json.dumps(events).encode()
        return self.send("POST", "/api/v1/events", body, content_type=kind, authorization=f"Bearer {key}", **headers)

    def post_raw(self, data: Any, headers: Iterable[tuple[str, str | bytes]]) -> Reply:
        """Send JSON with headers of any bytes, some perhaps twice."""
        body = json.dumps(data).encode()
        named = [*headers, ("content-type", JSON), ("authorization", f"Bearer {WRITER[0]}")]
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.putrequest("POST", self.root + "/api/v1/events")
            for name, value in (*named, ("content-length", str(len(body)))):
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(body)
            return _reply(connection)

    def usage(self, query: str = "", key: str = READER[0]) -> Reply:
        """Ask for totals."""
        return self.send("GET", f"/api/v1/usage?{query}", authorization=f"Bearer {key}")

    def lines(self) -> list[dict[str, Any]]:
        """Return the complete lines of the log."""
        return complete_lines(self.log)


def _reply(connection: HTTPConnection) -> Reply:
    answer = connection.getresponse()
    text = answer.read().decode()
    is_json = answer.headers.get_content_type() == JSON
    return Reply(answer.status, answer.headers, json.loads(text) if is_json else None, text)


@contextmanager
def serving(folder: Path, redis_url: str, *options: str, **settings: str) -> Iterator[Service]:
    """Run a service until the end of the block; it must end with 0 then."""
    log = folder / "service.log"
    env = environment_without("USAGE_", "DATABASE", "REDIS") | {"REDIS_URL": redis_url, "USAGE_LOG_FORMAT": "json"}
    command = [PROGRAM, "serve", "--port", "0", *options]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, cwd=folder, env=env | {"USAGE_API_KEYS": KEYS} | settings, stderr=errors) as process,
    ):
        try:
            service = Service(eventually(lambda: _port(log), 60), process, log)
            eventually(lambda: _answers(service), 60)
            yield service
            if process.poll() is None:
                process.terminate()
                assert process.wait(120) == 0, log.read_text()
        finally:
            process.kill()


def complete_lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log but the one that is being written."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _port(log: Path) -> int:
    """Return the port of the log's line about it, 0 until it is there."""
    return next((int(line["port"]) for line in complete_lines(log) if line["event"] == "listening"), 0)


def _answers(service: Service) -> bool:
    try:
        return service.send("GET", "/livez").status == 200
    except OSError:
        return False
