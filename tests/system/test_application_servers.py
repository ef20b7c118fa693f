"""Events of applications under gunicorn and uvicorn, and of one that is frozen between requests, as functions are.

Real servers, which take half a minute: a part of `make test-more`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

import pytest

from tests.helpers import environment_without, eventually, free_port, listens
from tests.integration.test_publisher import events_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

APPLICATION = """
import json, os, uuid
from usage_worker import UsagePublisher

USER, AGENT = uuid.uuid4(), uuid.uuid4()
usage = UsagePublisher(linger=60)  # so that an event is not sent before the end unless something sends it
usage.track(USER, AGENT)  # in the parent of all workers where there is one

def wsgi(environ, start_response):
    assert usage.track(USER, AGENT)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        for moment in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{moment}"
            if moment == "shutdown":
                await usage.aclose()
            await send({"type": f"lifespan.{moment}.complete"})
        return
    assert usage.track(USER, AGENT)
    if scope["path"] == "/flushed":
        assert await usage.aflush()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
# Nothing closes its publisher. By default its events would wait as long as uvicorn takes to end after the last request.
UNCLOSED = """
import asyncio, os, uuid
from usage_worker import UsagePublisher

USER, AGENT = uuid.uuid4(), uuid.uuid4()
usage = UsagePublisher(linger=60)

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    assert usage.track(USER, AGENT) if scope["path"] == "/" else await asyncio.to_thread(usage.track, USER, AGENT)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
# Answers a line on standard output for each on standard input; what the runtime does between them is up to it.
FUNCTION = """
import sys, uuid
from usage_worker import UsagePublisher

usage = UsagePublisher(linger=60)
for line in sys.stdin:
    assert usage.track(uuid.uuid4(), uuid.uuid4())
    print(usage.flush(), flush=True)
"""
WORKERS = 2
REQUESTS = 60
# gunicorn kills after 30 s what is left: a worker that was forked just before the signal, and missed it.
STOP_SECONDS = 60


def get(port: int, path: str = "/") -> str:
    """Return the process number that answered."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()
    finally:
        connection.close()


@contextmanager
def serving(
    folder: Path, redis_url: str, module: str, *options: str, application: str = APPLICATION
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run an application server until the block ends, ready for requests on a port."""
    (folder / "application.py").write_text(application)
    port = free_port()
    command = [sys.executable, "-m", module, *(option.format(port=port) for option in options)]
    env = environment_without("REDIS_URL", "USAGE_") | {"USAGE_REDIS_URL": redis_url}
    with subprocess.Popen(command, cwd=folder, env=env) as server:
        try:
            eventually(lambda: listens(port), 60)
            yield server, port
        finally:
            server.kill()


def request_all(port: int, path: str = "/") -> set[str]:
    """Send all requests from eight clients at once; return the process numbers that answered."""
    with ThreadPoolExecutor(8) as clients:
        return set(clients.map(lambda _: get(port, path), range(REQUESTS)))


@pytest.mark.parametrize(
    "options",
    [
        ["--preload"],
        ["--preload", "--threads", "4"],
        ["--preload", "--threads", "4", "--max-requests", "7"],
        ["--threads", "4"],
        ["--preload", "--worker-class", "gevent"],
        ["--worker-class", "gevent"],
    ],
    ids=" ".join,
)
def test_gunicorn_stopped_after_the_last_request(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis, options: list[str]
) -> None:
    arguments = ["application:wsgi", "--bind", "127.0.0.1:{port}", "--workers", str(WORKERS), *options]
    with serving(tmp_path, redis_url, "gunicorn", *arguments) as (server, port):
        pids = request_all(port)
        server.send_signal(signal.SIGTERM)
        assert server.wait(STOP_SECONDS) == 0
    if "--max-requests" in options:
        assert len(pids) > WORKERS
    if "--preload" in options:
        assert events_in(redis_client) == REQUESTS + 1
    else:
        # Each worker has imported the application, also one that no request has reached.
        assert len(pids) <= events_in(redis_client) - REQUESTS <= WORKERS


def test_uvicorn_workers_stopped_after_the_last_request(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    """It ends its workers with a second SIGTERM, which nothing handles: the application closes its publisher."""
    arguments = ["application:asgi", "--port", "{port}", "--workers", str(WORKERS)]
    with serving(tmp_path, redis_url, "uvicorn", *arguments) as (server, port):
        request_all(port)
        assert get(port, "/flushed")
        assert events_in(redis_client) > 0
        server.send_signal(signal.SIGTERM)
        server.wait(STOP_SECONDS)
    assert 1 <= events_in(redis_client) - REQUESTS - 1 <= WORKERS


@pytest.mark.parametrize("path", ["/", "/thread"])
@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn_stopped_with_a_publisher_that_nobody_closes(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis, workers: int, path: str
) -> None:
    arguments = ["application:asgi", "--port", "{port}", "--workers", str(workers)]
    with serving(tmp_path, redis_url, "uvicorn", *arguments, application=UNCLOSED) as (server, port):
        request_all(port, path)
        server.send_signal(signal.SIGTERM)
        server.wait(STOP_SECONDS)
    assert events_in(redis_client) == REQUESTS


def test_uvicorn_stopped_under_load_with_a_publisher_that_nobody_closes(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    """A client that got no answer does not know whether its last request was counted."""
    arguments = ["application:asgi", "--port", "{port}"]
    with serving(tmp_path, redis_url, "uvicorn", *arguments, application=UNCLOSED) as (server, port):
        with ThreadPoolExecutor(8) as clients:
            counts = [clients.submit(_request_until_refused, port) for _ in range(8)]
            eventually(lambda: events_in(redis_client) > 0)
            server.send_signal(signal.SIGTERM)
        server.wait(STOP_SECONDS)
    answered = sum(count.result() for count in counts)
    assert answered <= events_in(redis_client) <= answered + len(counts)


def _request_until_refused(port: int) -> int:
    """Send one request after the other; return the number that was answered."""
    answered = 0
    with suppress(OSError, HTTPException):
        while get(port):
            answered += 1
    return answered


@contextmanager
def frozen(process: subprocess.Popen[str]) -> Iterator[None]:
    """Stop a process during the block, as the runtime of a function does between two requests."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_function_that_is_frozen_after_each_answer(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    """Nothing runs after the answer; meanwhile Redis may have closed the connection."""
    env = environment_without("REDIS_URL", "USAGE_") | {"USAGE_REDIS_URL": redis_url}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", FUNCTION], cwd=tmp_path, env=env, text=True, **pipes) as function:  # type: ignore[call-overload]
        try:
            for requests in range(1, 6):
                function.stdin.write("request\n")
                function.stdin.flush()
                assert function.stdout.readline() == "True\n"
                with frozen(function):
                    assert events_in(redis_client) == requests
                    redis_client.client_kill_filter(_type="normal", skipme=True)
        finally:
            function.kill()
