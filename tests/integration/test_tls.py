"""`rediss://`: the stream and Celery verify the server's certificate alike."""

from __future__ import annotations

import asyncio
import queue
import ssl
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from kombu.exceptions import OperationalError
from redis.connection import parse_url

from tests.helpers import eventually
from tests.preloaded import start_celery
from usage_worker.errors import StreamUnavailableError
from usage_worker.queue.stream import EventStream
from usage_worker.service.app import make_app
from usage_worker.settings import Settings
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.commands import Cli


class TlsServer:
    """A proxy on a local port that accepts TLS and forwards to a Redis without TLS."""

    def __init__(self, redis_url: str, certificate: trustme.LeafCert) -> None:
        self._redis: dict[str, Any] = parse_url(redis_url)  # type: ignore[no-untyped-call]
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._tls)
        self._links: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Serve TLS during the block and yield the port."""
        ports: queue.Queue[int] = queue.Queue()
        stop = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(ports, stop)), name="tls")
        thread.start()
        try:
            yield ports.get(timeout=10)
        finally:
            stop.set()
            thread.join()

    async def _serve(self, ports: queue.Queue[int], stop: threading.Event) -> None:
        server = await asyncio.start_server(self._link, "127.0.0.1", 0, ssl=self._tls)
        ports.put(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(stop.wait)
        server.close()
        for writers in self._links.values():
            for writer in writers:
                writer.transport.abort()
        await asyncio.gather(*self._links)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if path := self._redis.get("path"):
            answers, commands = await asyncio.open_unix_connection(path)
        else:
            answers, commands = await asyncio.open_connection(self._redis["host"], self._redis.get("port", 6379))
        task = asyncio.current_task()
        assert task
        self._links[task] = (writer, commands)
        await asyncio.gather(_forward(reader, commands), _forward(answers, writer))


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """Return a certificate authority that nobody trusts, and the file with its certificate."""
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return authority, path


@pytest.fixture
def port(redis_url: str, authority: tuple[trustme.CA, Path]) -> Iterator[int]:
    """Yield the port of a TLS proxy with a certificate for `localhost`."""
    with TlsServer(redis_url, authority[0].issue_cert("localhost")).listening() as port:
        yield port


def error_lines(url: str) -> list[str]:
    """Return the connection errors of the stream and of Celery."""
    messages = []
    with closing(EventStream(url, 1)) as stream:
        try:
            stream.backlog(0)
        except StreamUnavailableError as error:
            messages.append(str(error))
    with make_app(Settings(REDIS_URL=url)) as app, app.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1)
        except OperationalError as error:
            messages.append(str(error))
    return messages


@pytest.mark.parametrize(
    ("host", "trust", "reason"),
    [("localhost", "", "certificate verify failed"), ("127.0.0.1", "?ssl_ca_certs={}", "IP address mismatch")],
    ids=["unknown authority", "another host"],
)
def test_bad_certificate_is_refused_by_publisher_and_celery(
    port: int, authority: tuple[trustme.CA, Path], host: str, trust: str, reason: str
) -> None:
    messages = error_lines(f"rediss://{host}:{port}/0{trust.format(authority[1])}")
    assert len(messages) == 2
    assert all(reason in line and "\n" not in line for line in messages)


@pytest.mark.parametrize("parameter", ["ssl_cert_reqs=none", "ssl_check_hostname=false&ssl_ca_certs={}"])
def test_checks_disabled_in_url_are_skipped_by_both(
    port: int, authority: tuple[trustme.CA, Path], parameter: str
) -> None:
    assert error_lines(f"rediss://127.0.0.1:{port}/0?{parameter.format(authority[1])}") == []


def test_task_is_executed_and_its_event_counted(
    port: int, authority: tuple[trustme.CA, Path], database: str, cli: Cli, tmp_path: Path
) -> None:
    url = f"rediss://localhost:{port}/0?ssl_ca_certs={authority[1]}"
    with (
        make_app(Settings(REDIS_URL=url)) as app,
        Store(database) as store,
        (tmp_path / "worker.log").open("wb") as log,
        start_celery(["worker", "--pool=solo"], cli.folder, cli.env | {"REDIS_URL": url}, log.fileno()) as worker,
    ):
        try:
            app.send_task("usage.track", kwargs={"user_id": "nobody"})
            for shard in range(2):
                app.send_task("usage.flush", (shard,))
            eventually(lambda: store.intake_totals().accepted == 1, 30)
        finally:
            worker.kill()
