"""Processes that are forks of one that has loaded `usage-worker` and Celery.

Each is a process with its own streams, folder, environment and exit code, as from a shell. Only to start Python and to
load the packages is done once: that takes 0.7 s of processor time of a command, and 1.5 to 2 s of a worker.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Self

import usage_worker.__main__
from usage_worker.cli import commands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
LONGEST_JOB = 2**20  # bytes
LONGEST_SECONDS = 60
# What workers and publishers load besides; the app of `usage_worker.celery` is made where it is asked for.
OF_WORKERS = (
    *("celery.bin.celery", "celery.apps.beat", "celery.apps.worker", "celery.fixups.django", "celery.worker.autoscale"),
    *("celery.concurrency.prefork", "celery.concurrency.solo", "celery.concurrency.thread", "celery.app.log"),
    *("usage_worker.celery", "usage_worker.demo.publish"),
)


class Forked:
    """A running fork, with methods of `subprocess.Popen`."""

    def __init__(self, answer: socket.socket) -> None:
        self._answer = answer
        pid, handles, *_ = socket.recv_fds(answer, 16, 1)
        self.pid, self._handle = int(pid), handles[0]
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def poll(self) -> int | None:
        return self._exit_code(0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._exit_code(timeout)) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # By its handle: its number may be that of another process as soon as it has ended.
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _exit_code(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._answer.settimeout(timeout)
            try:
                self.returncode = int(self._answer.recv(16))
            except (BlockingIOError, TimeoutError):
                return None
            self._answer.close()
            os.close(self._handle)
        return self.returncode


class Preloaded:
    """The process that forks; it ends with the test run, which holds the other end of its standard input."""

    def __init__(self) -> None:
        self._jobs, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-m", __name__], cwd=ROOT, stdin=theirs.fileno())

    def start(
        self, command: Sequence[str], folder: Path, env: Mapping[str, str], streams: Sequence[int], module: str = ""
    ) -> Forked:
        """Start a command as `subprocess.Popen` does, with its three standard streams.

        Args:
            command: the path of the program, and its arguments.
            folder: the current folder.
            env: the whole environment; Python and the packages have been loaded without it.
            streams: file descriptors.
            module: what to run instead of `usage-worker`, as `python -m` does, with the same arguments.
        """
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            job = json.dumps([module, command, str(folder), dict(env)]).encode()
            socket.send_fds(self._jobs, [job], [theirs.fileno(), *streams])
        return Forked(answer)

    def run(
        self, command: Sequence[str], folder: Path, env: Mapping[str, str], stdin: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command as `subprocess.run` does with captured output."""
        with TemporaryFile() as given, TemporaryFile() as output, TemporaryFile() as errors:
            given.write(stdin)
            given.seek(0)
            exit_code = self.start(command, folder, env, [file.fileno() for file in (given, output, errors)]).wait()
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(command, exit_code, output.read(), errors.read())


@cache
def preloaded() -> Preloaded:
    """Return the process of this test run."""
    return Preloaded()


def start_celery(arguments: Sequence[str], folder: Path, env: Mapping[str, str], output: int | None = None) -> Forked:
    """Start `python -m celery -A usage_worker`; `output` is the file descriptor of both streams, None drops them."""
    command = ["celery", "-A", "usage_worker", *arguments]
    with Path(os.devnull).open("r+b") as nowhere:
        streams = nowhere.fileno() if output is None else output
        return preloaded().start(command, folder, env, (nowhere.fileno(), streams, streams), "celery")


def main() -> None:
    """Run each job that arrives at standard input in a fork; return there when its command has returned."""
    jobs = socket.socket(fileno=os.dup(0))
    for name in commands.NAMES:
        commands.load(name)
    for module in OF_WORKERS:
        import_module(module)
    # A collection in a fork would copy the memory of everything that was loaded.
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        job, files, *_ = socket.recv_fds(jobs, LONGEST_JOB, 4)
        if not job:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if command := os.fork():
                watch(command, *files)
            jobs.close()
            become(files, *json.loads(job))
            return
        for file in files:
            os.close(file)


def watch(command: int, answer: int, *streams: int) -> None:
    """Send the number and a handle of a child, then its exit code."""
    for stream in streams:
        os.close(stream)
    with socket.socket(fileno=answer) as connection:
        socket.send_fds(connection, [str(command).encode()], [os.pidfd_open(command)])
        _, status = os.waitpid(command, 0)
        with suppress(BrokenPipeError):  # nobody waits for it any more
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(files: Sequence[int], module: str, command: list[str], folder: str, env: dict[str, str]) -> None:
    """Run a command with its own streams, folder and environment; `usage-worker` is killed if it does not end."""
    for number, stream in enumerate(files[1:]):
        os.dup2(stream, number)
    for file in files:
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = command
    if module:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        signal.alarm(LONGEST_SECONDS)
        usage_worker.__main__.main()


if __name__ == "__main__":
    main()
