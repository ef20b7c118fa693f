"""`usage-worker up` as a real process with real children: stopped, killed and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import Process, await_end, descendants, eventually, survivors

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(sys.executable).with_name("usage-worker")
START_TIMEOUT = 180
STOP_TIMEOUT = 120

pytestmark = pytest.mark.timeout(900)


class Up:
    """A running `usage-worker up` and its output."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def printed(self) -> str:
        return self._output.read_text()

    @property
    def database_url(self) -> str:
        found = re.search(r"^PostgreSQL .* (\S+)$", self.printed, re.MULTILINE)
        assert found
        return found[1]

    def tree(self) -> set[Process]:
        return descendants(self.process.pid)

    def await_ready(self) -> None:
        eventually(self._is_ready, START_TIMEOUT)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.printed
        return "ready; Ctrl-C" in self.printed


@contextmanager
def started(folder: Path, flower_port: int | None = 0) -> Iterator[Up]:
    """Start `usage-worker up` on embedded servers; kill it at the end and expect its processes to end, too.

    Where `flower_port` is None, the environment names it.
    """
    output = folder / "output"
    env = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    options = [f"--data-dir={folder / 'data'}", "--concurrency=1"]
    if flower_port is not None:
        options.append(f"--flower-port={flower_port}")
    with (
        output.open("wb") as stream,
        subprocess.Popen([str(PROGRAM), "up", *options], stdout=stream, stderr=stream, env=env) as process,
    ):
        up = Up(process, output)
        try:
            yield up
        finally:
            tree = up.tree()
            process.kill()
            process.wait()
            await_end(tree, STOP_TIMEOUT)


@contextmanager
def running(folder: Path, flower_port: int | None = 0) -> Iterator[Up]:
    """Start it and wait until it is ready."""
    with started(folder, flower_port) as up:
        up.await_ready()
        yield up


@pytest.fixture
def folder(server_folder: Path) -> Path:
    folder = server_folder / uuid.uuid4().hex[:8]
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def test_it_keeps_its_data_whatever_ends_it(folder: Path) -> None:
    """Its children are killed and restarted; it is stopped, killed, and stopped by Ctrl-C."""
    with running(folder) as up:
        execute(up.database_url, "CREATE TABLE kept AS SELECT 1 AS value")
        kill_children(up)
        stop(up, signal.SIGTERM)
    with running(folder) as up:
        execute(up.database_url, "SELECT FROM kept")
        tree = up.tree()
        up.process.kill()
        await_end(tree, STOP_TIMEOUT)
    with running(folder) as up:
        execute(up.database_url, "DROP TABLE kept")
        stop(up, signal.SIGINT)


def kill_children(up: Up) -> None:
    """Kill the servers and Celery's processes, and wait until others have taken their places."""
    children = [process for process in up.tree() if process.parent == up.process.pid]
    assert len(children) == 6
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: child_kinds(up) == {kind_of(child) for child in children}, 30)
    assert not survivors(children)
    execute(up.database_url, "SELECT FROM kept")


def stop(up: Up, stop_signal: signal.Signals) -> None:
    """End it by a signal, with everything that it has started."""
    tree = up.tree()
    assert len(tree) > 8
    up.process.send_signal(stop_signal)
    assert up.process.wait(STOP_TIMEOUT) == 0, up.printed
    assert not survivors(tree)


def test_stop_during_the_start_is_clean(folder: Path) -> None:
    with started(folder) as up:
        tree = eventually(up.tree, START_TIMEOUT)
        up.process.terminate()
        assert up.process.wait(STOP_TIMEOUT) == 0, up.printed
        assert not survivors(tree)


def child_kinds(up: Up) -> set[str]:
    return {kind_of(process) for process in up.tree() if process.parent == up.process.pid}


def kind_of(process: Process) -> str:
    """Return which of the supervised processes it is: a server, or a part of Celery."""
    found = re.search(r"postgres|valkey|celery.* (worker|beat|flower) ", process.command)
    return found[1] or found[0] if found else process.command


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
