"""A sender process and the lines that it exchanges with the benchmark, over its standard input and output.

Imports and generated events must not count as time of the path that is measured. So the sender prepares first:

    sender     → "ready"  its events are in memory
    benchmark  → "go"     the clock has been started
    sender     → "done"   everything was sent, with figures of its own; any other line says what was not
    benchmark  kills it   after reading its CPU time, which is gone once the process has ended
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from usage_worker.errors import ProcessError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.bench.load import Load

READY, GO, DONE = "ready", "go", "done"


def wait_for_go() -> None:
    """Report, in the sender, that its events are prepared, and wait for the benchmark to start the clock."""
    _write_line(sys.stdout, READY)
    sys.stdin.readline()


def report(line: object) -> None:
    """Report, in the sender, `DONE` or what was not sent, and keep the process alive until it is killed."""
    _write_line(sys.stdout, line)
    sys.stdin.readline()


class SenderProcess:
    """A sender as the benchmark sees it."""

    def __init__(self, module: str, process: subprocess.Popen[str]) -> None:
        """Wait until the sender is ready.

        Raises:
            ProcessError: it reported something else, or ended.
        """
        self._module = module
        self._input, self._output = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
        self.pid = process.pid
        self._expect(READY)

    def start(self) -> float:
        """Let it send, and return the `time.monotonic()` of that moment."""
        started = time.monotonic()
        _write_line(self._input, GO)
        return started

    def check_done(self) -> list[float]:
        """Wait for its report, and return its figures.

        Raises:
            ProcessError: it did not send every event.
        """
        return self._expect(DONE)

    def _expect(self, expected: str) -> list[float]:
        line = self._output.readline().strip()
        word, *figures = line.split(" ")
        if word != expected:
            raise ProcessError(f"{self._module} reported {line!r} instead of {expected!r}")
        return [float(figure) for figure in figures]


@contextmanager
def sender_process(module: str, load: Load, env: dict[str, str]) -> Iterator[SenderProcess]:
    """Run a module as the sender of a load, ready to start; kill it at the end."""
    command = [sys.executable, "-m", module, *load.arguments()]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield SenderProcess(module, process)
        finally:
            process.kill()


def _write_line(stream: IO[str], line: object) -> None:
    stream.write(f"{line}\n")
    stream.flush()
