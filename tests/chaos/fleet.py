"""The processes of a run: Celery workers under several host names, beat, the HTTP service, producers, commands."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.exits import unexplained
from tests.chaos.streams import SHARDS
from tests.erasure import FORGET_KEY
from tests.helpers import environment_without, free_port
from tests.integration.commands import PROGRAM
from usage_worker.http.keys import Right, make_key
from usage_worker.local.processes import ChildProcess
from usage_worker.local.supervisor import CELERY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from tests.chaos.topology import Topology

ROOT = Path(__file__).parents[2]
# As quick as the tests of single faults: a run has some hundred of them. The periodic tasks run all the time.
SETTINGS = {
    "USAGE_RECLAIM_IDLE": "2",
    "USAGE_FLUSH_INTERVAL": "1",
    "USAGE_FLUSH_BUDGET": "5",
    "USAGE_SCHEDULE_PURGE": "11",
    "USAGE_SCHEDULE_PARTITIONS": "17",
    "USAGE_SCHEDULE_ANALYTICS": "13",
    "USAGE_SCHEDULE_HOURS": "7",
    "USAGE_SCHEDULE_RECONCILE": "19",
    "USAGE_SCHEDULE_GRAPH": "29",
    "USAGE_SCHEDULE_QUALITY": "23",
    "USAGE_SCHEDULE_ANOMALIES": "31",
    "USAGE_SCHEDULE_DEAD_LETTERS": "37",
    "USAGE_LOG_FORMAT": "json",
    "USAGE_FORGET_KEY": FORGET_KEY,
    "PYTHONDONTWRITEBYTECODE": "",
}
WORKERS = ("worker-1", "worker-2", "maintenance")
PRODUCERS = ("track-1", "track-2", "xadd-1", "celery-1", "http-1")

END_SECONDS = 90.0


class Fleet:
    """The processes by name; `tend` starts again what has ended, as a supervisor does."""

    def __init__(self, folder: Path, topology: Topology, random: Random, rate: float) -> None:
        self.folder, self.topology, self.random, self.rate = folder, topology, random, rate
        self.running: dict[str, ChildProcess] = {}
        self.commands: list[ChildProcess] = []
        self.wanted: set[str] = {*WORKERS, "beat", "serve", *PRODUCERS}
        self.shards = SHARDS
        """What starts from now on has so many."""
        self.harmed: set[ChildProcess] = set()
        self.unexplained: list[str] = []
        self.journals: list[Path] = []
        self._port, self._starts = free_port(), 0
        key, hashed = make_key("chaos", Right.WRITE)
        # By this variable the processes of a run are found, also those whose parent was killed.
        self.mark = f"CHAOS_RUN={os.getpid()}-{random.getrandbits(64)}"
        name, _, value = self.mark.partition("=")
        self._env = environment_without("USAGE_", "DATABASE", "REDIS") | SETTINGS
        self._env |= {"USAGE_API_KEYS": str(hashed), "CHAOS_KEY": key, name: value}

    def tend(self) -> None:
        """Start what is wanted and does not run; note what has ended without having been harmed."""
        for name in sorted(self.wanted):
            process = self.running.get(name)
            if process and process.exit_code is None:
                continue
            if process:
                self._check(name, process)
            self.running[name] = self._start(name, self._command(name))
        for command in [it for it in self.commands if it.exit_code is not None]:
            self.commands.remove(command)
            self._check(command.name, command)

    def sends(self) -> bool:
        """Return whether every producer has begun to send."""
        return all(journal.exists() and journal.stat().st_size for journal in self.journals)

    def run(self, *arguments: str) -> ChildProcess:
        """Run a command of `usage-worker` beside the others."""
        self._starts += 1
        process = self._start(f"{'-'.join(arguments[:2])}.{self._starts}", [PROGRAM, *arguments])
        self.commands.append(process)
        return process

    def harm(self, process: ChildProcess, number: signal.Signals) -> None:
        if number not in (signal.SIGSTOP, signal.SIGCONT) and process.exit_code is None:
            self.harmed.add(process)
        process.send(number)

    def some(self, *kinds: str) -> tuple[str, ChildProcess] | None:
        """Return one of the running processes whose names begin so."""
        found = [(name, it) for name, it in sorted(self.running.items()) if name.startswith(kinds)]
        found = [(name, it) for name, it in found if it.exit_code is None]
        return self.random.choice(found) if found else None

    def resume(self) -> None:
        """Let every stopped process of the run go on."""
        for pid in self.pids():
            _signal(pid, signal.SIGCONT)

    def end_producers(self) -> None:
        """Let the producers send all that they have, and end."""
        self.wanted -= set(PRODUCERS)
        producers = [(name, self.running.pop(name)) for name in PRODUCERS if name in self.running]
        for _, process in producers:
            if process.exit_code is None:
                process.send(signal.SIGUSR1)
        for name, process in producers:
            code = process.wait(END_SECONDS)
            # SIGUSR1 kills a process that has not installed its handler yet.
            if code != -signal.SIGUSR1:
                self._check(name, process)

    def end(self) -> None:
        """End all others as a supervisor does; what does not end in time is killed, and noted."""
        for command in self.commands:
            command.wait(END_SECONDS)
            self._check(command.name, command)
        self.wanted.clear()
        for name in sorted(self.running, key=lambda name: name in WORKERS):
            process = self.running.pop(name)
            if process.exit_code is None and not process.stop(END_SECONDS):
                self.unexplained.append(f"{name} did not end within {END_SECONDS:.0f} s of SIGTERM")
            elif process.exit_code != 0:
                self._check(name, process)

    def kill(self) -> None:
        """Kill everything, at the end of a run that failed."""
        for pid in self.pids():
            _signal(pid, signal.SIGKILL)
        for process in [*self.running.values(), *self.commands]:
            process.kill()

    def pids(self) -> list[int]:
        """Return all processes of the run."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if _has(path, self.mark)]

    def children(self) -> Iterable[int]:
        """Return the processes of the pools of the workers."""
        mains = {it.pid for it in [*self.running.values(), *self.commands]}
        return [pid for pid in self.pids() if pid not in mains]

    def _check(self, name: str, process: ChildProcess) -> None:
        if process not in self.harmed and (text := unexplained(name, process, is_worker=name in WORKERS)):
            self.unexplained.append(text)

    def _command(self, name: str) -> list[str]:
        kind = name.partition("-")[0]
        if name in WORKERS:
            queues = "maintenance" if name == "maintenance" else "celery"
            number = name.rpartition("-")[2]
            options = ["--hostname", f"{name}@host-{number}", "--queues", queues, "--concurrency"]
            return [*CELERY, "worker", *options, "1" if name == "maintenance" else "2"]
        if kind == "beat":
            return [*CELERY, "beat", "--pidfile=", f"--schedule={self.folder / name}.schedule"]
        if kind == "serve":
            return [PROGRAM, "serve", "--port", str(self._port)]
        self._starts += 1
        self.journals.append(journal := self.folder / f"{name}.{self._starts}.journal")
        seed, rate = str(self.random.getrandbits(32)), str(self.rate / len(PRODUCERS))
        return [sys.executable, "-m", "tests.chaos.producers", kind, str(journal), seed, rate, str(self._port)]

    def _start(self, name: str, command: list[str]) -> ChildProcess:
        env = self._env | self.topology.settings_of(name) | {"PYTHONPATH": f"{ROOT}:{ROOT / 'worker'}"}
        env["USAGE_STREAM_SHARDS"] = str(self.shards)
        log = self.folder / f"{name}.log"
        return ChildProcess(name, command, orphan_signal=signal.SIGKILL, env=env, log=log)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _has(environ: Path, mark: str) -> bool:
    try:
        return mark.encode() in environ.read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
