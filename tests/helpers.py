"""Helpers that pytest lacks: waiting for conditions and for the end of processes, a clean environment, ports, pages."""

from __future__ import annotations

import os
import random
import socket
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.request import urlopen

import pytest

from usage_worker.service.broker import broker_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
POLL_INTERVAL = 0.02
# A shared machine may be that much slower than the one for which a timeout was chosen, and stand still for seconds.
SLOWEST, LONGEST_PATIENCE = 4, 120.0
# Processes of one test run, at most: see the Makefile.
MOST_PROCESSES = 4


def eventually(condition: Callable[[], T], timeout: float = 10.0) -> T:
    """Poll the condition until its value is true, and return it; fail after `timeout` seconds of a fast machine."""
    patience = max(timeout, min(SLOWEST * timeout, LONGEST_PATIENCE))
    deadline = time.monotonic() + patience
    while True:
        is_last = time.monotonic() > deadline  # before the condition, which may itself take long
        if value := condition():
            return value
        if is_last:
            pytest.fail(f"still {value!r} after {patience:g} s")
        time.sleep(POLL_INTERVAL)


def broker_url(redis_url: str) -> str:
    """Return the URL of a Redis as Celery spells it."""
    url: str = broker_settings(redis_url)["broker_url"]
    return url


def environment_without(*prefixes: str) -> dict[str, str]:
    """Return the environment of the test run without the variables that begin with one of the prefixes."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _own_ports() -> Iterator[int]:
    """Return ports, in turn, that neither connections nor the other processes of the test run use."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % MOST_PROCESSES
    ports = range(10_000, 32_000)[number::MOST_PROCESSES]
    first = random.SystemRandom().randrange(len(ports))
    return cycle([*ports[first:], *ports[:first]])


_PORTS = _own_ports()


def free_port() -> int:
    """Return a free port that nobody else takes before it is bound; a server that was killed finds it free again."""
    for port in _PORTS:
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


def listens(port: int) -> bool:
    """Return whether a server takes connections on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def fetched(url: str) -> str:
    """Return what a server of this machine answers, or nothing while there is no answer."""
    try:
        with urlopen(url, timeout=20) as reply:  # noqa: S310 - our own address
            text: str = reply.read().decode()
            return text
    except OSError:
        return ""


class Process(NamedTuple):
    """A process of this machine; its start time distinguishes it from a later one with the same PID."""

    pid: int
    started: str
    parent: int
    command: str


def descendants(pid: int) -> set[Process]:
    """Return all living descendants of a process."""
    processes = _processes()
    found: set[Process] = set()
    parents = {pid}
    while parents:
        children = {process for process in processes if process.parent in parents}
        found |= children
        parents = {child.pid for child in children}
    return found


def survivors(processes: Iterable[Process]) -> set[str]:
    """Return PID and command of each process that is still alive."""
    alive = {(process.pid, process.started) for process in _processes()}
    return {f"{it.pid} {it.command}" for it in processes if (it.pid, it.started) in alive}


def await_end(processes: Iterable[Process], timeout: float = 60.0) -> None:
    """Wait until all processes have ended; after `timeout` seconds fail and name those that have not."""
    deadline = time.monotonic() + timeout
    while alive := survivors(processes):
        if time.monotonic() > deadline:
            pytest.fail(f"after {timeout} s still alive: {alive}")
        time.sleep(POLL_INTERVAL)


def _processes() -> list[Process]:
    return [process for path in Path("/proc").glob("[0-9]*") if (process := _process(path))]


def _process(path: Path) -> Process | None:
    try:
        status = (path / "stat").read_text()
        command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, *others = status.rpartition(")")[2].split()  # the name before it may contain any character
    return Process(int(path.name), others[17], int(parent), command) if state != "Z" else None
