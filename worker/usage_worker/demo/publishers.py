"""The publisher processes of the demo, and the files of events that they write for the oracle."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from usage_worker.demo.publish import UNKNOWN_USER
from usage_worker.errors import ProcessError
from usage_worker.local.processes import ChildProcess
from usage_worker.testing import Oracle

if TYPE_CHECKING:
    from pathlib import Path

AT_A_TIME = 2
"""The number of processes that publish together."""


@dataclass(frozen=True)
class _Process:
    event_file: Path
    child: ChildProcess
    log: Path

    def sent(self) -> int | None:
        """Return the number of events it sent, or None while it runs."""
        if self.child.exit_code is None:
            return None
        if self.child.exit_code != 0:
            raise ProcessError(f"a publisher exited with {self.child.exit_code}: {self.child.log_tail()}")
        report = json.loads(self.log.read_text().splitlines()[-1])
        return int(report["sent"])


class Publishers:
    """Every publisher process of a run; a context manager that stops those that still run."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._env = os.environ | {"USAGE_REDIS_URL": redis_url}
        self._folder = folder
        self._processes: list[_Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.child.stop(5.0)

    def start(self, events: int, *options: str) -> None:
        """Start processes that publish so many events together, duplicates not counted."""
        for part in range(AT_A_TIME):
            number = len(self._processes)
            file, log = self._folder / f"events-{number}.ndjson", self._folder / f"publisher-{number}.log"
            share = events // AT_A_TIME + (events % AT_A_TIME if part == 0 else 0)
            command = [sys.executable, "-m", "usage_worker.demo.publish", str(file), str(share), str(number), *options]
            child = ChildProcess(f"publisher-{number}", command, env=self._env, log=log)
            self._processes.append(_Process(file, child, log))

    def sent(self) -> int | None:
        """Return the number of events that all of them sent, or None while one runs.

        Raises:
            ProcessError: one failed.
        """
        sent = [number for process in self._processes if (number := process.sent()) is not None]
        return sum(sent) if len(sent) == len(self._processes) else None

    def read_back(self) -> tuple[Oracle, int]:
        """Return an oracle of the published events, and the number of events of the unknown user."""
        oracle, unknown_user_events = Oracle(), 0
        for process in self._processes:
            with process.event_file.open() as lines:
                for event in map(json.loads, lines):
                    if event["user_id"] == str(UNKNOWN_USER):
                        unknown_user_events += 1
                    else:
                        oracle.add(event)
        return oracle, unknown_user_events
