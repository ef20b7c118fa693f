"""The common part of both embedded servers: one data folder, one owner, one child process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar, Self

from usage_worker.errors import EmbeddedServerError
from usage_worker.local.account import (
    Account,
    make_folder,
    make_private_folder,
    server_account,
    temporary_folder,
)
from usage_worker.local.processes import ChildProcess
from usage_worker.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from usage_worker.local.binaries import Program

SOCKET_PATH_LIMIT = 107  # sun_path of sockaddr_un, less its final zero byte
START_TIMEOUT = 60.0  # without any answer; what a crash has left to be recovered may take longer
RECOVERY_NOTICE = 5.0  # after so many seconds a recovery is reported
STOP_TIMEOUT = 120.0  # PostgreSQL first writes what has changed in its buffers; killed, it would have to recover
OWNER_TIMEOUT = 1.0  # an owner that was just killed takes a moment to end
TAKEOVER_TIMEOUT = 20.0
POLL_INTERVAL = 0.02

log = get_logger("servers")


class Answer(Enum):
    """What a server says to whoever connects."""

    NOTHING = auto()
    RECOVERING = auto()
    """It reads what it had written, which succeeds unless it is interrupted."""
    READY = auto()


class EmbeddedServer(ABC):
    """A server on a data folder, as a context manager.

    Two locks protect the folder, and the kernel releases both: the owner holds `owner.lock`; the server and its child
    processes inherit `server.lock`, which is free exactly when the last of them has ended. A start that gets the first
    lock but not the second found the server of a killed owner: it waits for its end, then kills it (takeover).

    The folder contains `data` (of the server), `run` (its socket), `server.log` and, where the servers' account cannot
    read the installed programs, `programs` (a copy of them).
    """

    name: ClassVar[str]
    socket_name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.settings: dict[str, str] = dict(settings or {})
        self._account: Account | None = None
        self._program: Program | None = None
        self._socket_dir: Path | None = None
        self._child: ChildProcess | None = None
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.exit_code is None

    @property
    def version(self) -> str:
        return self._ready_program().version

    @property
    def socket_dir(self) -> Path:
        if self._socket_dir is None:
            raise EmbeddedServerError(f"{self.name} was not started")
        return self._socket_dir

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            EmbeddedServerError: it cannot start, or another process owns the data folder.
        """
        with contextlib.ExitStack() as resources:
            self._account = server_account()
            make_folder(self.data_dir, self._account)
            resources.enter_context(self._ownership())
            self._program = self._find_program(self._account, self.data_dir / "programs")
            self._socket_dir = resources.enter_context(self._socket_folder())
            resources.callback(self._stop_child)
            self._launch()
            self._resources = resources.pop_all()

    def stop(self) -> None:
        """Stop the server and release the data folder; do nothing where it does not run."""
        self._resources.close()

    def kill(self) -> None:
        """Kill the server, like a crash; `restart` starts it again."""
        self._running().kill()

    @abstractmethod
    def restart(self) -> None:
        """Stop and start again on the same data; also after a kill."""

    def _relaunch(self, stop_signal: signal.Signals) -> None:
        child = self._running()
        if child.exit_code is None:
            child.send(stop_signal)
            with contextlib.suppress(TimeoutError):
                child.wait(STOP_TIMEOUT)
        child.kill()
        self._launch()

    @abstractmethod
    def _find_program(self, account: Account | None, copies: Path) -> Program: ...

    @abstractmethod
    def _prepare(self, server_lock: int) -> None:
        """Prepare the data folder for a start."""

    @abstractmethod
    def _command(self) -> list[str | Path]: ...

    @abstractmethod
    def _answer(self) -> Answer:
        """Ask the server whether it is ready."""

    def _launch(self) -> None:
        with self._server_lock() as lock:
            self._prepare(lock)
            self._child = self._spawn(self._command(), lock)
        self._await_answer(self._child)

    def _spawn(self, command: list[str | Path], server_lock: int) -> ChildProcess:
        child = ChildProcess(
            self.name,
            command,
            stop_signal=self.stop_signal,
            env={"PATH": os.defpath, "LC_ALL": "C"},  # the owner's PGDATA and the like concern other servers
            log=self.data_dir / "server.log",
            account=self._account,
            pass_fds=[server_lock],
        )
        os.pwrite(server_lock, f"{child.pid:<10}\n".encode(), 0)
        return child

    def _await_answer(self, child: ChildProcess) -> None:
        started = answered = time.monotonic()
        is_reported = False
        while (answer := self._answer()) is not Answer.READY:
            now = time.monotonic()
            if child.exit_code is not None:
                raise EmbeddedServerError(self._failure(child))
            if answer is Answer.RECOVERING:
                answered = now
                if not is_reported and now - started > RECOVERY_NOTICE:
                    log.warning("a server recovers what it had written; waiting", server=self.name, log=str(child.log))
                    is_reported = True
            elif now - answered > START_TIMEOUT:
                raise EmbeddedServerError(f"{self.name} does not answer after {START_TIMEOUT:.0f} s; see {child.log}")
            time.sleep(POLL_INTERVAL)

    def _failure(self, child: ChildProcess) -> str:
        lines = child.log_tail().splitlines()
        reason = next((line for line in reversed(lines) if "FATAL" in line or "error" in line.lower()), "")
        last_line = lines[-1] if lines else "no output"
        return f"{self.name} exited with {child.exit_code}: {reason or last_line} (see {child.log})"

    def _stop_child(self) -> None:
        if self._child is not None:
            self._child.stop(STOP_TIMEOUT)
            self._child = None

    def _running(self) -> ChildProcess:
        if self._child is None:
            raise EmbeddedServerError(f"{self.name} does not run")
        return self._child

    def _ready_program(self) -> Program:
        if self._program is None:
            raise EmbeddedServerError(f"{self.name} was not started")
        return self._program

    @contextlib.contextmanager
    def _ownership(self) -> Iterator[None]:
        lock = os.open(self.data_dir / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _lock_within(lock, OWNER_TIMEOUT):
                raise EmbeddedServerError(f"{self.data_dir} is in use by another process; stop that one first")
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _server_lock(self) -> Iterator[int]:
        lock = os.open(self.data_dir / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _lock_within(lock, STOP_TIMEOUT):
                _kill_holder(lock)
                if not _lock_within(lock, TAKEOVER_TIMEOUT):
                    raise EmbeddedServerError(f"a {self.name} of an earlier run still uses {self.data_dir}")
            yield lock
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _socket_folder(self) -> Iterator[Path]:
        """Create the folder of the socket: below the data folder, so that the URL stays, if its path is short."""
        folder = self.data_dir / "run"
        if len(os.fsencode(folder / self.socket_name)) <= SOCKET_PATH_LIMIT:
            make_private_folder(folder, self._account)
            yield folder
            return
        with temporary_folder() as base:
            folder = base / "run"
            make_private_folder(folder, self._account)
            yield folder


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_within(file: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not _try_lock(file):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def _kill_holder(file: int) -> None:
    """Kill the server that holds the lock; both servers recover. The lock proves that the process number is current."""
    number = os.pread(file, 32, 0).strip()
    if number.isdigit():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)
