"""Celery workers under several host names, as on several machines: each in a process group of its own."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from tests.helpers import eventually
from usage_worker.local.processes import ChildProcess
from usage_worker.monitoring.status import collect_status
from usage_worker.queue.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.faults.harness import Harness
    from usage_worker.monitoring.status import SystemStatus
    from usage_worker.settings import Settings


class Nodes:
    """Workers and beat on the servers of a harness; a context manager that ends those that still run.

    Args:
        harness: the servers, and the environment of the processes.
        folder: for their logs.
        concurrency: processes of each worker.
        options: further options of each worker.
    """

    def __init__(self, harness: Harness, folder: Path, concurrency: int = 2, options: Sequence[str] = ()) -> None:
        self._harness = harness
        self._folder = folder
        self._options = (f"--concurrency={concurrency}", *options)
        self._processes: dict[str, ChildProcess] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for process in self._processes.values():
                self._stack.callback(process.kill)

    @property
    def settings(self) -> Settings:
        return self._harness.resources.settings

    def start(self, *names: str, **settings: object) -> None:
        """Start workers with settings of their own; `ready` waits for them."""
        for name in names:
            self._start(name, "worker", f"--hostname={name}", *self._options, **settings)

    def start_beat(self, **settings: object) -> None:
        self._start("beat", "beat", "--pidfile=", f"--schedule={self._folder / 'beat'}", **settings)

    def ready(self, *names: str) -> None:
        """Wait until these workers, and no others, are alive."""
        eventually(lambda: self.alive() == set(names), 60)

    def alive(self) -> set[str]:
        records = Processes(self._harness.resources.stream.connection).read()
        return {it.name for it in records if it.is_alive and it.process.kind == "worker"}

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def signal(self, number: int, name: str) -> None:
        """Send a signal to all processes of a worker at once."""
        os.killpg(self._processes[name].pid, number)

    def stop(self, *names: str) -> None:
        """Ask workers to end, as an orchestrator does, and wait for it."""
        for name in names:
            self._processes[name].ask_to_stop()
        for name in names:
            assert self._processes.pop(name).wait(120) == 0

    def kill(self, name: str) -> None:
        """Kill all processes of a worker, as the loss of its machine does."""
        self._processes.pop(name).kill()

    def status(self) -> SystemStatus:
        return collect_status(self.settings)

    def problems(self) -> dict[str, str]:
        """Return the reason of each check that warns or fails."""
        return {problem.name: problem.reason for problem in self.status().problems}

    def by_shard(self, name: str) -> dict[int, int]:
        """Return how many events of each shard a worker has counted."""
        flushes = self.status().figures.flushes or {}
        return {shard: flush.by_node.get(name, 0) for shard, flush in flushes.items()}

    def counted(self) -> dict[str, int]:
        """Return how many events each worker has counted."""
        return {node.name: node.events for node in self.status().figures.nodes}

    def _start(self, name: str, *arguments: str, **settings: object) -> None:
        servers = {"DATABASE_URL": self._harness.database, "REDIS_URL": self._harness.redis_url}
        own = {f"USAGE_{key.upper()}": str(value) for key, value in settings.items()}
        self._processes[name] = ChildProcess(
            name,
            [sys.executable, "-P", "-m", "usage_worker.service", "--quiet", *arguments],
            orphan_signal=signal.SIGKILL,
            env={**os.environ, **self._harness.env, **servers, **own},
            log=self._folder / f"{name}.log",
        )
