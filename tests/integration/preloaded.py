"""Commands in forks of a process that has loaded `usage-worker`.

Each is a process with its own streams, folder, environment and exit code, as from a shell. Only to start Python and to
load the packages is done once: it takes 0.7 s of processor time, which was a third of that of the integration tests.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import usage_worker.__main__
from usage_worker.cli import commands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
LONGEST_JOB = 2**20  # bytes
LONGEST_SECONDS = 60


class Preloaded:
    """The process; it ends with the test run, which holds the other end of its standard input."""

    def __init__(self) -> None:
        self._jobs, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-m", __name__], cwd=ROOT, stdin=theirs.fileno())

    def run(
        self, command: Sequence[str], folder: Path, env: Mapping[str, str], stdin: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command as `subprocess.run` does with captured output; its first word is the path of the program."""
        answer, theirs = socket.socketpair()
        with answer, TemporaryFile() as given, TemporaryFile() as output, TemporaryFile() as errors:
            given.write(stdin)
            given.seek(0)
            with theirs:
                files = [theirs.fileno(), *(file.fileno() for file in (given, output, errors))]
                socket.send_fds(self._jobs, [json.dumps([command, str(folder), env]).encode()], files)
            exit_code = int(answer.recv(16))
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(command, exit_code, output.read(), errors.read())


@cache
def preloaded() -> Preloaded:
    """Return the process of this test run."""
    return Preloaded()


def main() -> None:
    """Run each job that arrives at standard input in a fork; return there when its command has returned."""
    jobs = socket.socket(fileno=os.dup(0))
    for name in commands.NAMES:
        commands.load(name)
    # A collection in a fork would copy the memory of everything that was loaded.
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        job, files, *_ = socket.recv_fds(jobs, LONGEST_JOB, 4)
        if not job:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer, *streams = files
            if command := os.fork():
                _, status = os.waitpid(command, 0)
                os.write(answer, str(os.waitstatus_to_exitcode(status)).encode())
                os._exit(0)
            become(streams, *json.loads(job))
            return
        for file in files:
            os.close(file)


def become(streams: Sequence[int], command: list[str], folder: str, env: dict[str, str]) -> None:
    """Run a command with its own streams, folder and environment; it is killed if it does not end."""
    signal.alarm(LONGEST_SECONDS)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = command
    usage_worker.__main__.main()


if __name__ == "__main__":
    main()
