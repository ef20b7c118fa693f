"""The Celery processes under one supervisor: workers, beat and Flower.

Their owner calls `poll` now and then, which starts again what has died. Should the owner itself be killed, the kernel
stops every process of the stack (see `ChildProcess`).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from usage_worker.errors import ProcessError
from usage_worker.local.processes import ChildProcess
from usage_worker.logs import get_logger
from usage_worker.service.queues import QueueName

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType


LOCALHOST = "127.0.0.1"
# -P: what lies in the current folder cannot take the place of our modules; and no banners, which are not log lines.
CELERY = (sys.executable, "-P", "-m", "usage_worker.service", "--quiet")
PING_TIMEOUT = 1.0
STOP_TIMEOUT = 30.0  # a worker finishes the batch in hand; a batch that is cut off is counted by the next worker
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 30.0
MAINTAINER = "maintenance"
FLOWER = "flower"
SETTLED = 60.0  # who ran that long has not crashed for the reason of the time before

log = get_logger("stack")


@dataclass
class Service:
    """One supervised process and what is known of its crashes."""

    name: str
    command: list[str]
    child: ChildProcess | None = None
    started: float = 0.0
    backoff: float = 0.0
    due: float | None = None

    def start(self, env: dict[str, str], log_dir: Path | None) -> None:
        log_file = log_dir / f"{self.name}.log" if log_dir else None
        # An orphan's servers may be gone as well, and a worker that looks for its broker is deaf to SIGTERM. It can
        # be killed without loss: what it had not committed is still in the stream.
        self.child = ChildProcess(self.name, self.command, orphan_signal=signal.SIGKILL, env=env, log=log_file)
        self.started, self.due = time.monotonic(), None

    @property
    def crashed(self) -> bool:
        return self.child is not None and self.child.exit_code is not None

    def note_crash(self) -> None:
        """Decide when the next start is due, later and later while crashes follow each other closely."""
        if self.child is None or self.due is not None:
            return
        now = time.monotonic()
        self.child.kill()  # what it left behind must not work beside its successor
        is_repeated = self.backoff > 0 and now - self.started < SETTLED
        self.backoff = min(2 * self.backoff, LONGEST_BACKOFF) if is_repeated else FIRST_BACKOFF
        self.due = now + self.backoff
        log.warning("a process died", process=self.name, exit_code=self.child.exit_code, restart_in=self.backoff)


class Supervisor:
    """Celery workers, beat and Flower as child processes; a context manager.

    `log_dir` takes one log file a process; without it their output goes to standard error. `flower_port` 0
    chooses a free port, None leaves Flower out. `state_dir` keeps beat's schedule, otherwise it is temporary. One more
    worker than `workers` does the maintenance. `variables` are added to the environment of the processes.
    """

    def __init__(
        self,
        database_url: str,
        redis_url: str,
        *,
        workers: int = 1,
        concurrency: int = 2,
        flower_port: int | None = 0,
        state_dir: Path | None = None,
        log_dir: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.flower_port = _free_port() if flower_port == 0 else flower_port
        node = platform.node()
        # By node: what it takes from, and with how many processes.
        self._nodes = {f"worker{number}@{node}": (QueueName.COUNTING, concurrency) for number in range(1, workers + 1)}
        self._nodes[f"{MAINTAINER}@{node}"] = (QueueName.MAINTENANCE, 1)
        self._state_dir = state_dir
        self._log_dir = log_dir
        servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        # With REMAP_SIGTERM a worker takes SIGTERM for Celery's soft shutdown, which is bounded in time.
        self._env = {**os.environ, **servers, **(variables or {}), "REMAP_SIGTERM": "SIGQUIT"}
        self._services: list[Service] = []
        self._temporary = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def flower_url(self) -> str | None:
        return f"http://{LOCALHOST}:{self.flower_port}" if self.flower_port is not None else None

    @property
    def flower_listens(self) -> bool:
        """Whether Flower runs and its port answers."""
        runs = any(service.name == FLOWER and not service.crashed for service in self._services)
        return runs and self.flower_port is not None and _listens(self.flower_port)

    @property
    def pids(self) -> dict[str, int]:
        """The process numbers of what was started, by name (worker1, maintenance, beat, flower)."""
        return {service.name: service.child.pid for service in self._services if service.child}

    def start(self) -> None:
        """Start every process; `wait_ready` waits until they work.

        Raises:
            ProcessError: one cannot be started.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            state = self._state_dir or Path(self._temporary.enter_context(tempfile.TemporaryDirectory()))
            for folder in (state, self._log_dir):
                if folder is not None:
                    folder.mkdir(parents=True, exist_ok=True)
            self._services = self._planned(state)
            for service in self._services:
                service.start(self._env, self._log_dir)
            undo.pop_all()

    def stop(self) -> None:
        """Stop beat and Flower, then the workers, which finish what they hold."""
        workers = [service for service in self._services if "worker" in service.command]
        others = [service for service in self._services if service not in workers]
        for group in (others, workers):
            children = [service.child for service in group if service.child]
            for child in children:
                child.ask_to_stop()
            for child in children:
                if not child.stop(STOP_TIMEOUT):
                    log.warning("a process did not stop and was killed", process=child.name)
        self._services = []
        self._temporary.close()

    def poll(self) -> None:
        """Start again what has died, after a pause that grows from crash to crash."""
        for service in self._services:
            if not service.crashed:
                continue
            service.note_crash()
            if service.due is not None and time.monotonic() >= service.due:
                service.start(self._env, self._log_dir)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until every worker answers and Flower listens, unless Flower dies: counting goes on without it.

        Raises:
            ProcessError: another process died, or the workers are not ready after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while silent := self._silent():
            for service in self._services:
                if service.crashed and service.name != FLOWER:
                    raise ProcessError(_last_words(service))
            if time.monotonic() > deadline:
                if silent != [FLOWER]:
                    raise ProcessError(f"no answer after {timeout:.0f} s from {', '.join(silent)}")
                log.warning("Flower does not answer", seconds=timeout)
                return

    def _planned(self, state: Path) -> list[Service]:
        plan = [
            Service(
                node.split("@")[0],
                [*CELERY, "worker", "--hostname", node, "--queues", queue, "--concurrency", str(concurrency)],
            )
            for node, (queue, concurrency) in self._nodes.items()
        ]
        schedule = state / "celerybeat-schedule"
        plan.append(Service("beat", [*CELERY, "beat", "--pidfile=", f"--schedule={schedule}"]))
        if self.flower_port is not None:
            address = [f"--address={LOCALHOST}", f"--port={self.flower_port}"]
            plan.append(Service(FLOWER, [*CELERY, "flower", *address]))
        return plan

    def _silent(self) -> list[str]:
        """Who does not answer yet. The ping, at most PING_TIMEOUT long, paces the waiting."""
        silent = sorted(set(self._nodes) - self._answering_nodes())
        if not self.flower_listens and any(it.name == FLOWER and not it.crashed for it in self._services):
            silent.append(FLOWER)
        return silent

    def _answering_nodes(self) -> set[str]:
        destination = f"--destination={','.join(self._nodes)}"
        options = ["--json", f"--timeout={PING_TIMEOUT}", destination]
        ping = subprocess.run([*CELERY, "inspect", *options, "ping"], env=self._env, capture_output=True, check=False)
        if ping.returncode != 0:
            return set()
        return set(json.loads(ping.stdout))


def _last_words(service: Service) -> str:
    if service.child is None:
        return f"{service.name} was not started"
    last_line = service.child.log_tail().rpartition("\n")[2]
    return f"{service.name} exited with {service.child.exit_code}{': ' if last_line else ''}{last_line}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(PING_TIMEOUT)
        return probe.connect_ex((LOCALHOST, port)) == 0
