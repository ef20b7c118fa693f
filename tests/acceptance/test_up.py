"""`usage-worker up` as its users see it: a real process with real children, stopped, killed and started again."""

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
START_TIMEOUT = 60
STOP_TIMEOUT = 60

pytestmark = pytest.mark.timeout(300)


class Up:
    """A running `usage-worker up` and what it printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def printed(self) -> str:
        return self._output.read_text()

    @property
    def database_url(self) -> str:
        found = re.search(r"^PostgreSQL +(\S+)$", self.printed, re.MULTILINE)
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
def started(folder: Path) -> Iterator[Up]:
    """`usage-worker up` on servers of its own; at the end it is killed and its processes must be gone."""
    output = folder / "output"
    env = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    options = [f"--data-dir={folder / 'data'}", "--flower-port=0", "--concurrency=1"]
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
def running(folder: Path) -> Iterator[Up]:
    """The same, when it is ready."""
    with started(folder) as up:
        up.await_ready()
        yield up


@pytest.fixture
def folder(server_folder: Path) -> Path:
    folder = server_folder / uuid.uuid4().hex[:8]
    folder.mkdir()
    folder.chmod(0o755)
    return folder


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_stops_cleanly_and_has_its_data_again(folder: Path, stop_signal: signal.Signals) -> None:
    with running(folder) as up:
        execute(up.database_url, "CREATE TABLE kept AS SELECT 1 AS value")
        tree = up.tree()
        assert len(tree) > 8
        up.process.send_signal(stop_signal)
        assert up.process.wait(STOP_TIMEOUT) == 0, up.printed
        assert not survivors(tree)
    with running(folder) as up:
        execute(up.database_url, "DROP TABLE kept")


def test_killed_it_leaves_nothing_behind_and_starts_again(folder: Path) -> None:
    with running(folder) as up:
        tree = up.tree()
        up.process.kill()
        await_end(tree, STOP_TIMEOUT)
    with running(folder) as up:
        execute(up.database_url, "SELECT FROM user_agents")


def test_what_dies_is_started_again(folder: Path) -> None:
    with running(folder) as up:
        children = [process for process in up.tree() if process.parent == up.process.pid]
        assert len(children) == 6
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        eventually(lambda: names_of_children(up) == {name_of(child) for child in children}, 30)
        assert not survivors(children)
        execute(up.database_url, "SELECT FROM user_agents")


def test_stop_while_it_starts_is_clean(folder: Path) -> None:
    with started(folder) as up:
        tree = eventually(up.tree, START_TIMEOUT)
        up.process.terminate()
        assert up.process.wait(STOP_TIMEOUT) == 0, up.printed
        assert not survivors(tree)


def names_of_children(up: Up) -> set[str]:
    return {name_of(process) for process in up.tree() if process.parent == up.process.pid}


def name_of(process: Process) -> str:
    """What kind of process of the stack it is."""
    found = re.search(r"postgres|valkey|celery.* (worker|beat|flower) ", process.command)
    return found[1] or found[0] if found else process.command


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
