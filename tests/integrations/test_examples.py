"""The programs of examples/, run by the commands that they name, with a provider that answers from this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import redis

from tests.helpers import environment_without, eventually, free_port, listens
from tests.integration.service import WRITER, serving
from tests.integrations.conftest import broker_url, events_in
from tests.integrations.provider import UNENDING
from tests.integrations.variables import keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Valkey

EXAMPLES = Path(__file__).parents[2] / "examples"
OWNER = {"user_id": "42", "agent_id": "support-bot"}
COUNTED = {
    **OWNER,
    "input_tokens": 812,
    "output_tokens": 160,
    "cached_input_tokens": 512,
    "reasoning_tokens": 96,
    "model": "gpt-4o-2024-08-06",
}
REQUESTS = 12


@pytest.fixture
def env(redis_url: str, provider_url: str) -> dict[str, str]:
    """Return the environment of a reader who has activated the virtual environment."""
    env = environment_without("USAGE_", "REDIS", "DATABASE", "OPENAI")
    path = f"{Path(sys.executable).parent}:{env['PATH']}"
    return {**env, **keys(provider_url), "PATH": path, "USAGE_REDIS_URL": redis_url}


def documented(name: str, program: str) -> list[str]:
    """Return the command for a program that an example names, without the variables before it."""
    (line,) = re.findall(rf"^(?://  +)?(?:USAGE_\w+=\S+ )*({program} .*)$", (EXAMPLES / name).read_text(), re.MULTILINE)
    return shlex.split(line)


def run(env: dict[str, str], *command: str) -> str:
    """Run a program until it ends, and return its output."""
    done = subprocess.run(command, cwd=EXAMPLES, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(env: dict[str, str], command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, cwd=EXAMPLES, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def get(port: int, path: str, question: str = "What is a shard?") -> str:
    """Return the answer of an application."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", f"{path}?{urlencode({'user': 42, 'question': question})}")
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()
    finally:
        connection.close()


def events(client: redis.Redis) -> list[dict[str, Any]]:
    """Return what has been sent, without what differs between two runs."""
    found = events_in(client)
    for event in found:
        assert event.pop("event_id")
        assert event.pop("occurred_at")
        assert event.pop("response_time_ms", 0) >= 0
    return found


@pytest.mark.parametrize(
    ("name", "program", "options"),
    [
        ("fastapi_app.py", "uvicorn", ["--port", "{}"]),
        ("fastapi_app.py", "uvicorn", ["--port", "{}", "--workers", "2"]),
        ("flask_app.py", "gunicorn", ["--bind", "127.0.0.1:{}"]),
        ("django_app.py", "gunicorn", ["--bind", "127.0.0.1:{}"]),
    ],
    ids=["fastapi", "fastapi-workers", "flask", "django"],
)
def test_server_stopped_after_the_last_request(
    env: dict[str, str], redis_client: redis.Redis, name: str, program: str, options: list[str]
) -> None:
    port = free_port()
    command = [*documented(name, program), *(option.format(port) for option in options)]
    with running(env, command) as server:
        eventually(lambda: listens(port), 60)
        # Redis takes nothing until the server has been told to end.
        redis_client.client_pause(60_000, all=False)
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda _: get(port, "/ask"), range(REQUESTS)))
        assert events(redis_client) == []
        server.terminate()
        redis_client.client_unpause()
        server.wait(120)
    assert {answer.strip('"') for answer in answers} == {"Yes."}
    assert events(redis_client) == [COUNTED] * REQUESTS


def test_fastapi_counts_streams(env: dict[str, str], redis_client: redis.Redis) -> None:
    """One that is read to its end, and one whose reader leaves, which used what nobody says."""
    port = free_port()
    with running(env, [*documented("fastapi_app.py", "uvicorn"), "--port", str(port)]) as server:
        eventually(lambda: listens(port), 60)
        assert get(port, "/stream") == "Yes."
        assert eventually(lambda: events(redis_client)) == [COUNTED]
        reader = HTTPConnection("127.0.0.1", port, timeout=30)
        reader.request("GET", f"/stream?{urlencode({'user': 7, 'question': UNENDING})}")
        assert reader.getresponse().read(2) == b"Ye"
        reader.close()
        left = eventually(lambda: [event for event in events(redis_client) if event["user_id"] == "7"])
        server.terminate()
        server.wait(120)
    assert left == [{**OWNER, "user_id": "7", "model": COUNTED["model"]}]
    assert len(events(redis_client)) == 2


def test_celery_stopped_after_the_last_task(env: dict[str, str], valkey: Valkey, redis_client: redis.Redis) -> None:
    """Each task runs in a process of its own."""
    env["CELERY_BROKER_URL"] = broker_url(valkey)
    *python, code = documented("celery_app.py", "python")
    command = [*documented("celery_app.py", "celery"), "--max-tasks-per-child=1", "--concurrency=2"]
    with redis.Redis.from_url(valkey.url(1)) as tasks:
        tasks.flushdb()
        run(env, *python, "; ".join([code] * 3))
        assert tasks.llen("celery") == 3
        with running(env, command) as worker:
            # A task is acknowledged once it has run.
            eventually(lambda: not tasks.exists("celery", "unacked"), 60)
            worker.terminate()
            worker.wait(120)
    assert events(redis_client) == [COUNTED] * 3


def test_script(env: dict[str, str], redis_client: redis.Redis) -> None:
    """It flushes nothing, and when it runs twice with one response, that counts once."""
    command = documented("script.py", "python")
    assert [run(env, *command) for _ in range(2)] == ["In a peaceful grove\n"] * 2
    first, second = events_in(redis_client)
    assert first["event_id"] == second["event_id"]
    counted = {"input_tokens": 81, "output_tokens": 1035, "cached_input_tokens": 40, "cache_write_tokens": 12}
    expected = {**OWNER, **counted, "reasoning_tokens": 832, "model": "gpt-5.2-2025-12-11"}
    assert events(redis_client) == [expected] * 2


def test_notebook_killed_after_its_last_cell(env: dict[str, str], redis_client: redis.Redis) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", "\n".join([*code, kill])], env=env, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert events(redis_client) == [COUNTED]


def test_function_frozen_after_its_answer(env: dict[str, str], redis_client: redis.Redis) -> None:
    code = """
import os, signal
from serverless import handler
answer = handler({"user": "42", "question": "What is a shard?"}, None)
os.kill(os.getpid(), signal.SIGSTOP if answer == {"statusCode": 200, "body": "Yes."} else signal.SIGKILL)
"""
    with running(env, [sys.executable, "-c", code]) as function:
        state = os.waitid(os.P_PID, function.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert state
        assert state.si_status == signal.SIGSTOP
        assert events(redis_client) == [COUNTED]


def test_node(env: dict[str, str], redis_url: str, redis_client: redis.Redis, tmp_path: Path) -> None:
    with serving(tmp_path, redis_url, USAGE_IDS="uuid5") as service:
        client = {"USAGE_URL": f"http://127.0.0.1:{service.port}", "USAGE_API_KEY": WRITER[0]}
        printed = run(env | client, *documented("publish.mjs", "node"))
    assert printed == '202 {"accepted":1,"refused":[]}\n'
    assert events(redis_client) == [{**OWNER, "input_tokens": 812, "output_tokens": 160, "cost_usd": "0.0031"}]
