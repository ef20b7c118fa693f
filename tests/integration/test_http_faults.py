"""The service where Redis is away, full or slow, where it has several processes, and where it is mounted."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import redis
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.helpers import await_end, descendants, eventually
from tests.integration.asgi import Answer, ask
from tests.integration.commands import SECRET, Cli
from tests.integration.scripted_redis import ANSWERS, scripted_redis
from tests.integration.service import AGENT, EVENT, JSON, USERS, WRITER, Service, serving
from tests.integration.test_redis_server import own_server
from tests.servers import FAST_VALKEY
from usage_worker.errors import SettingsError
from usage_worker.http import create_app
from usage_worker.http.keys import Right, make_key
from usage_worker.http.receiver import UNAVAILABLE, Receiver, Taken
from usage_worker.http.serving import listening, serve
from usage_worker.settings import Settings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from usage_worker.local import EmbeddedValkey

FOREIGN = (
    "", "evil.example:", "evil.example:99999", "[evil.example", "evil.example/@localhost", "localhost@evil.example",
    "localhost:80:80", "localhost:x", "[::1", "::1", "localhost evil.example", "localhost.evil.example",
)  # fmt: skip


@pytest.fixture(scope="module")
def own_valkey(pytestconfig: pytest.Config, module_folder: Path) -> Iterator[EmbeddedValkey]:
    """Start a server that the tests of this module stop and fill."""
    with own_server(pytestconfig, module_folder / "service", **FAST_VALKEY) as server:
        yield server


@pytest.fixture(scope="module")
def service(own_valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), own_valkey.url()) as service:
        yield service


@pytest.fixture
def client(own_valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_valkey.url()) as client:
        client.flushdb()
        yield client


def retried(reply: Any) -> int:
    """Return the events accepted by an answer that says to send again."""
    assert (reply.status, reply.headers["Retry-After"], reply.json["error"]) == (503, "5", UNAVAILABLE)
    return int(reply.json["accepted"] or 0)


def test_redis_away_full_and_back(service: Service, own_valkey: EmbeddedValkey, client: redis.Redis) -> None:
    assert service.post(EVENT).status == 202
    client.config_set("maxmemory", client.info("memory")["used_memory"] * 10 // 9)
    eventually(lambda: service.post(EVENT).status == 503)
    assert (retried(service.post(EVENT)), service.send("GET", "/readyz").status) == (0, 503)
    client.config_set("maxmemory", 0)
    assert service.post(EVENT).status == 202
    own_valkey.stop()
    assert (retried(service.post(EVENT)), service.send("GET", "/readyz").status) == (0, 503)
    assert service.post({}).status == 400
    assert service.send("GET", "/livez").status == 200
    own_valkey.start()
    assert service.post(EVENT).status == 202
    warnings = [line["event"] for line in service.lines() if line["level"] == "warning"]
    # A repeat within ten seconds is left out.
    causes = [line.partition(": Redis is not available: ")[::2] for line in warnings]
    assert [(refusal, cause[:10]) for refusal, cause in causes] == [
        ("refusing events", "its memory"),
        ("refusing events", "Error 2 co"),
        ("not ready", "Error 2 co"),
    ]


def test_answer_is_exact_where_one_shard_refuses(service: Service, client: redis.Redis) -> None:
    client.set("usage:events:{1}", "of another program")
    reply = service.post([{"user_id": USERS[1], "agent_id": AGENT}, EVENT, {}])
    assert retried(reply) == 1
    assert [(it["index"], it["field"]) for it in reply.json["refused"]] == [(0, None), (2, "user_id")]
    assert client.xlen("usage:events:{0}") == 1


def test_answers_need_not_wait_for_an_acknowledgement() -> None:
    """TCP_NODELAY is set by asyncio for a socket of this protocol alone."""
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.proto == socket.IPPROTO_TCP


def test_lost_answer_is_neither_yes_nor_no() -> None:
    with scripted_redis(XADD=b"?\r\n") as (url, answers), closing(Receiver(Settings(REDIS_URL=url))) as receiver:
        assert receiver.take(lambda: [EVENT], lambda item: item) == Taken(None, [], UNAVAILABLE)
        answers["XADD"] = b"-OOM command not allowed\r\n"
        assert receiver.take(lambda: [EVENT], lambda item: item).accepted == 0
        answers["XADD"] = ANSWERS["XADD"]
        assert receiver.take(lambda: [EVENT, {}], lambda item: item).accepted == 1


def test_request_in_flight_is_answered_after_sigterm(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    with serving(tmp_path, own_valkey.url()) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            head = f"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: 2\r\n"
            connection.sendall(f"{head}Expect: 100-continue\r\nAuthorization: Bearer {WRITER[0]}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 100")  # it reads the body now
            service.process.send_signal(signal.SIGTERM)
            eventually(lambda: any("Shutting down" in line["event"] for line in service.lines()))
            connection.sendall(b"[]")
            assert connection.recv(100).startswith(b"HTTP/1.1 202")
        eventually(lambda: ends_on_sigterm(service.process), 20)
        assert service.process.returncode == 0


def ends_on_sigterm(process: subprocess.Popen[bytes]) -> bool:
    """Send SIGTERM once more; it may come while the interpreter ends."""
    process.terminate()
    return process.poll() is not None


def test_processes_share_port_and_metrics(own_valkey: EmbeddedValkey, tmp_path: Path, client: redis.Redis) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    with serving(tmp_path, own_valkey.url(), "--workers", "2", TMPDIR=str(folder)) as service:
        sent = 0

        def processes() -> set[int]:
            nonlocal sent
            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(lambda _: service.post(EVENT).status, range(20))) == {202}
            sent += 20
            return {line["pid"] for line in service.lines() if line["event"] == "request"}

        eventually(lambda: len(processes()) == 2, 30)
        text = service.send("GET", "/metrics").text
        children = descendants(service.process.pid)
        service.process.kill()
        service.process.wait()
        await_end(children, 30)
    assert list(folder.iterdir()) == []
    assert f'usage_http_events_total{{outcome="accepted"}} {sent}.0' in text


def test_mounted_application_needs_no_lifespan(own_valkey: EmbeddedValkey, client: redis.Redis) -> None:
    key, entry = make_key("shop", Right.WRITE)
    application = create_app(Settings(REDIS_URL=own_valkey.url(), api_keys=str(entry)))
    mounted = Starlette(routes=[Mount("/usage", application)])

    async def answers() -> list[Answer]:
        ready = await ask(mounted, "GET", "/usage/readyz")
        body = json.dumps(EVENT).encode()
        taken = await ask(mounted, "POST", "/usage/api/v1/events", body, key)
        refused = await ask(mounted, "POST", "/usage/api/v1/events", body, WRITER[0])
        document = await ask(mounted, "GET", "/usage/openapi.json")
        return [ready, taken, refused, document, await ask(mounted, "GET", "/usage/metrics")]

    ready, taken, refused, document, metrics = asyncio.run(answers())
    assert (ready.status, taken.status, refused.status) == (200, 202, 401)
    assert client.xlen("usage:events:{0}") == 1
    assert json.loads(document.body)["servers"] == [{"url": "/usage"}]
    assert b'path="/api/v1/events",status="202"' in metrics.body


def test_without_keys_only_this_machine_may_send(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    url = own_valkey.url()
    with pytest.raises(SettingsError, match="USAGE_API_KEYS is not set"):
        serve(Settings(REDIS_URL=url, api_keys=""), "0.0.0.0", 0, 1)  # noqa: S104 - what it refuses
    with serving(tmp_path, url, USAGE_API_KEYS="") as service:
        assert service.post(EVENT).status == 202
        for named in ({"host": "evil.example"}, {"x_forwarded_for": "192.0.2.1"}):
            reply = service.post(EVENT, **named)
            assert (reply.status, reply.json["accepted"]) == (401, 0)
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:80"):
            assert service.send("GET", "/api/v1/usage", host=host).status == 501, host
        for host in FOREIGN:
            assert service.send("GET", "/api/v1/usage", host=host).status == 401, host
        for hosts in ("", "Host: localhost\r\nHost: evil.example\r\n", "Host: localhost\r\nHost: localhost\r\n"):
            with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
                connection.sendall(f"GET /api/v1/usage HTTP/1.0\r\n{hosts}\r\n".encode())
                assert connection.recv(20).startswith(b"HTTP/1.1 401"), hosts
        with pytest.raises(SettingsError, match=f"--port {service.port}"):
            listening("127.0.0.1", service.port)
    cli = Cli(tmp_path, REDIS_URL=url, USAGE_API_KEYS=SECRET)
    assert "USAGE_API_KEYS: entry 1 is not" in cli.error_line("serve --port 0")


def test_invalid_host_is_one_line(tmp_path: Path) -> None:
    cli = Cli(tmp_path, REDIS_URL="redis://127.0.0.1:1/0", USAGE_API_KEYS=str(WRITER[1]))
    hosts = ("\udcff", "a..b", f"{'a' * 64}.example")
    lines = cli.error_lines(*(f"serve --port 1 --host {host}" for host in hosts))
    assert all("--port 1: " in line for line in lines)
