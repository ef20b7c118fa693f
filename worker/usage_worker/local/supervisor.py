"""The Celery processes under one supervisor: workers, beat and Flower.

The owner calls `poll` repeatedly, which restarts processes that have died. If the owner itself is killed, the kernel
stops every process (see `ChildProcess`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
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
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usage_worker.settings import Settings


LOCALHOST = "127.0.0.1"
# -P: modules in the current folder cannot replace ours. --quiet: a banner is not a log line.
CELERY = (sys.executable, "-P", "-m", "usage_worker.service", "--quiet")
PING_TIMEOUT = 1.0
# The ping itself waits only while a worker is missing.
POLL_SECONDS = 0.1
STOP_TIMEOUT = 30.0  # a worker finishes its batch; an interrupted batch is counted by the next worker
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 30.0
MAINTENANCE = "maintenance"
FLOWER = "flower"
PURPOSES = {QueueName.COUNTING: "counts events", QueueName.MAINTENANCE: "executes the periodic tasks"}
STABLE_SECONDS = 60.0  # a process that ran for longer did not crash again for the same reason

log = get_logger("stack")


@dataclass
class SupervisedProcess:
    """A process, and when to restart it after a crash; times are those of `time.monotonic`."""

    name: str
    purpose: str
    command: list[str]
    child: ChildProcess | None = None
    started: float = 0.0
    backoff: float = 0.0
    restart_at: float | None = None

    def start(self, env: dict[str, str], log_dir: Path | None) -> None:
        log_file = log_dir / f"{self.name}.log" if log_dir else None
        # When the owner dies, its servers may end too, and a worker that waits for its broker ignores SIGTERM. Killing
        # it loses nothing: entries that it had not committed are still in the stream.
        self.child = ChildProcess(self.name, self.command, orphan_signal=signal.SIGKILL, env=env, log=log_file)
        self.started, self.restart_at = time.monotonic(), None

    @property
    def crashed(self) -> bool:
        return self.child is not None and self.child.exit_code is not None

    def schedule_restart(self) -> None:
        """Set the time of the next start; the pause doubles while crashes follow closely."""
        if self.child is None or self.restart_at is not None:
            return
        now = time.monotonic()
        self.child.kill()  # its child processes must not run beside the next start
        is_repeated = self.backoff > 0 and now - self.started < STABLE_SECONDS
        self.backoff = min(2 * self.backoff, LONGEST_BACKOFF) if is_repeated else FIRST_BACKOFF
        self.restart_at = now + self.backoff
        log.warning("a process died", process=self.name, exit_code=self.child.exit_code, restart_in=self.backoff)


class Supervisor:
    """Celery workers, beat and Flower as child processes; a context manager.

    Args:
        database_url: PostgreSQL.
        redis_url: Redis.
        broker_url: where Celery's messages go; by default to that Redis, whatever the environment says.
        workers: number of workers that count; one more does the maintenance.
        concurrency: processes of each worker that counts; by default one for each shard, where a flush waits for
            events, and one for the other tasks.
        flower_port: port of Flower on localhost; 0 chooses a free one, None starts no Flower.
        state_dir: folder of beat's schedule; a temporary one when None.
        log_dir: folder of one log file per process; when None, their output goes to standard error.
        variables: additions to the environment of the processes.
    """

    def __init__(
        self,
        database_url: str,
        redis_url: str,
        *,
        broker_url: str = "",
        workers: int = 1,
        concurrency: int | None = None,
        flower_port: int | None = 0,
        state_dir: Path | None = None,
        log_dir: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.flower_port = _free_port() if flower_port == 0 else flower_port
        node = platform.node()
        self._state_dir = state_dir
        self._log_dir = log_dir
        servers = {"DATABASE_URL": database_url, "USAGE_REDIS_URL": redis_url}
        servers["USAGE_BROKER_URL"] = broker_url or redis_url
        self._env = {**os.environ, **servers, **(variables or {})}
        # Queue and number of processes, by node.
        concurrency = concurrency or load_settings(self._env).stream_shards + 1
        self._nodes = {f"worker{number}@{node}": (QueueName.COUNTING, concurrency) for number in range(1, workers + 1)}
        self._nodes[f"{MAINTENANCE}@{node}"] = (QueueName.MAINTENANCE, 1)
        self._processes: list[SupervisedProcess] = []
        self._temporary = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def flower_url(self) -> str | None:
        return f"http://{LOCALHOST}:{self.flower_port}" if self.flower_port is not None else None

    @property
    def flower_listens(self) -> bool:
        """Whether Flower runs and listens on its port."""
        runs = any(process.name == FLOWER and not process.crashed for process in self._processes)
        return runs and self.flower_port is not None and _listens(self.flower_port)

    @property
    def pids(self) -> dict[str, int]:
        """Process numbers of the started processes, by name (worker1, maintenance, beat, flower)."""
        return {process.name: process.child.pid for process in self._processes if process.child}

    @property
    def purposes(self) -> dict[str, str]:
        """What each process does, by name."""
        return {process.name: process.purpose for process in self._processes}

    def start(self) -> None:
        """Start every process; `wait_ready` waits until they are ready.

        Raises:
            ProcessError: one cannot be started, or a folder cannot be created.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            state = self._state_dir or Path(self._temporary.enter_context(tempfile.TemporaryDirectory()))
            for folder in (state, self._log_dir):
                if folder is not None:
                    _make_folder(folder)
            self._processes = self._plan(state)
            for process in self._processes:
                process.start(self._env, self._log_dir)
            undo.pop_all()

    def stop(self) -> None:
        """Stop beat and Flower, then the workers, which finish their batches."""
        workers = [process for process in self._processes if "worker" in process.command]
        others = [process for process in self._processes if process not in workers]
        for group in (others, workers):
            children = [process.child for process in group if process.child]
            for child in children:
                child.ask_to_stop()
            for child in children:
                if not child.stop(STOP_TIMEOUT):
                    log.warning("a process did not stop and was killed", process=child.name)
        self._processes = []
        self._temporary.close()

    def poll(self) -> None:
        """Restart processes that have died, after a pause that grows with each crash."""
        for process in self._processes:
            if not process.crashed:
                continue
            process.schedule_restart()
            if process.restart_at is not None and time.monotonic() >= process.restart_at:
                process.start(self._env, self._log_dir)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until every worker answers and Flower listens. Where Flower dies, go on, since it counts nothing.

        Raises:
            ProcessError: another process died, or the workers are not ready after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        settings = load_settings(self._env)
        while missing := self._not_ready(settings):
            for process in self._processes:
                if process.crashed and process.name != FLOWER:
                    raise ProcessError(_exit_message(process))
            if time.monotonic() > deadline:
                if missing != [FLOWER]:
                    raise ProcessError(f"no answer after {timeout:.0f} s from {', '.join(missing)}")
                log.warning("Flower does not answer", seconds=timeout)
                return
            time.sleep(POLL_SECONDS)

    def _plan(self, state: Path) -> list[SupervisedProcess]:
        plan = [
            SupervisedProcess(
                node.split("@")[0],
                PURPOSES[queue],
                [*CELERY, "worker", "--hostname", node, "--queues", queue, "--concurrency", str(concurrency)],
            )
            for node, (queue, concurrency) in self._nodes.items()
        ]
        schedule = state / "celerybeat-schedule"
        plan.append(
            SupervisedProcess(
                "beat", "sends tasks on schedule", [*CELERY, "beat", "--pidfile=", f"--schedule={schedule}"]
            )
        )
        if self.flower_port is not None:
            address = [f"--address={LOCALHOST}", f"--port={self.flower_port}"]
            plan.append(SupervisedProcess(FLOWER, "shows the tasks", [*CELERY, "flower", *address]))
        return plan

    def _not_ready(self, settings: Settings) -> list[str]:
        """Return the processes that do not answer yet."""
        from usage_worker.service.ping import answering_nodes  # noqa: PLC0415 - Celery takes long to load

        missing = sorted(set(self._nodes) - answering_nodes(settings, self._nodes, PING_TIMEOUT))
        if not self.flower_listens and any(it.name == FLOWER and not it.crashed for it in self._processes):
            missing.append(FLOWER)
        return missing


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProcessError(f"cannot create {folder}: {error.strerror}") from None


def _exit_message(process: SupervisedProcess) -> str:
    if process.child is None:
        return f"{process.name} was not started"
    last_line = process.child.log_tail().rpartition("\n")[2]
    return f"{process.name} exited with {process.child.exit_code}{': ' if last_line else ''}{last_line}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(PING_TIMEOUT)
        return probe.connect_ex((LOCALHOST, port)) == 0
