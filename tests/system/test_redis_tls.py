"""`rediss://` with the system's redis-server and the documented certificates: both clients verify alike.

The embedded Valkey has no TLS, so that this test belongs to `make test-more`.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.helpers import environment_without, eventually, listens
from tests.integration.test_tls import error_lines
from usage_worker.publisher import UsagePublisher

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
HINT = "ssl_ca_certs=/path/ca.pem"


def documented(program: str) -> list[str]:
    """Return the lines of the documented set-up that start a program."""
    section = OPERATIONS.split("\n### TLS\n")[1].split("\n### ")[0]
    return re.findall(rf"^ {{4}}({program} .+)$", section, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the certificates that the documented commands make."""
    folder = tmp_path_factory.mktemp("certificates")
    commands = documented("openssl")
    assert len(commands) == 2
    for command in commands:
        subprocess.run(["/bin/sh", "-c", command], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@contextmanager
def listening(folder: Path, program: str, *options: str) -> Iterator[int]:
    """Run the documented server on a free port and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (line,) = documented("redis-server")
    words = [program, *line.split()[1:], "--tls-port", str(port), "--save", "", "--appendonly", "no", *options]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: listens(port))
            yield port
        finally:
            server.kill()


@pytest.fixture(scope="module")
def program(pytestconfig: pytest.Config) -> str:
    found = pytestconfig.getoption("--redis-server") or shutil.which("redis-server")
    assert found, "apt-get install redis-server"
    return str(found)


@pytest.fixture(scope="module")
def port(folder: Path, program: str) -> Iterator[int]:
    with listening(folder, program) as port:
        yield port


@pytest.mark.parametrize(
    ("host", "query", "reason", "remedy"),
    [
        ("localhost", "", "self-signed certificate", HINT),
        ("localhost", "?ssl_ca_certs={}/redis.pem", "certificate verify failed", HINT),
        ("127.0.0.1", "?ssl_ca_certs={}/ca.pem", "IP address mismatch", "name the host in REDIS_URL as"),
    ],
    ids=["unknown authority", "wrong authority", "another host"],
)
def test_both_clients_refuse(port: int, folder: Path, host: str, query: str, reason: str, remedy: str) -> None:
    messages = error_lines(f"rediss://{host}:{port}/0{query.format(folder)}")
    assert len(messages) == 2
    assert all(reason in message and "\n" not in message for message in messages)
    assert remedy in messages[0]


@pytest.mark.parametrize("query", ["ssl_ca_certs={}/ca.pem", "ssl_ca_path={}/authorities", "ssl_cert_reqs=none"])
def test_both_clients_connect(port: int, folder: Path, query: str) -> None:
    authorities = folder / "authorities"
    if not authorities.exists():
        authorities.mkdir()
        shutil.copy(folder / "ca.pem", authorities)
        subprocess.run(["openssl", "rehash", authorities], check=True, timeout=60)
    assert error_lines(f"rediss://localhost:{port}/0?{query.format(folder)}") == []


def test_client_certificate_is_sent_by_both(folder: Path, program: str) -> None:
    with listening(folder, program, "--tls-auth-clients", "yes") as port:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={folder}/ca.pem"
        assert len(error_lines(url)) == 2
        assert error_lines(f"{url}&ssl_certfile={folder}/redis.pem&ssl_keyfile={folder}/redis.key") == []


def test_publisher_holds_and_says_what_to_do(port: int) -> None:
    with UsagePublisher(f"rediss://localhost:{port}/0", linger=0) as publisher:
        publisher.track(uuid4(), uuid4())
        assert HINT in eventually(lambda: publisher.stats().holding)
        publisher.close(0)


def test_worker_says_what_to_do(port: int, tmp_path: Path) -> None:
    servers = {"REDIS_URL": f"rediss://localhost:{port}/0", "DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"}
    command = [sys.executable, "-m", "celery", "-A", "usage_worker", "--quiet", "worker", "--pool", "solo"]
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=tmp_path, env=environment_without("USAGE_") | servers, stderr=output) as worker,
    ):
        try:
            eventually(lambda: HINT in log.read_text("utf-8"), 30)
        finally:
            worker.kill()
