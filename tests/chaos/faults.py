"""Faults at random: what happens, when it ends, and the schedule that is printed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import redis

from tests.chaos.fleet import PRODUCERS, WORKERS
from tests.chaos.streams import MOST_SHARDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.chaos.administrator import Administrator
    from tests.chaos.fleet import Fleet
    from tests.chaos.topology import Topology
    from tests.faults.proxy import Cut
    from usage_worker.local.processes import ChildProcess

COMMANDS = [
    *(("run", task) for task in ("purge", "partitions", "reconcile", "refresh", "graph", "dead-letters")),
    *(("status", "--json"), ("drain",), ("report",), ("dead-letters", "list", "--json"), ("doctor",)),
]
MOST_COMMANDS = 3
# Seconds between two faults: several at once, and also long enough for a killed process to start and count again.
PAUSES = [0.1, 0.5, 1, 3, 6, 12]
TABLES = ["user_agents", "usage_daily", "usage_events", "usage_entries", "usage_dead_letters", "agents"]


class Chaos:
    """Injects faults into a fleet and its servers, and ends each after some seconds."""

    def __init__(self, fleet: Fleet, topology: Topology, administrator: Administrator, random: Random) -> None:
        self.administrator = administrator
        self.fleet, self.topology, self.random = fleet, topology, random
        self.log: list[str] = []
        self._began = time.monotonic()
        self._faults = 0
        self._undo: list[tuple[float, str, Callable[[], object]]] = []
        often = [
            self.kill_worker,
            self.kill_child,
            self.stop_process,
            self.stop_child,
            self.kill_producer,
            self.command,
        ]
        database = [self.terminate, self.kill_backend, self.lock_table, self.lock_rows, self.cut_at_commit]
        database += [self.stall_database, self.lock_rows, self.terminate]
        rare = [self.kill_other, self.end_worker, self.two_beats, self.cut_database, self.lose_node]
        rare += [self.kill_command, self.change_shards, self.change_shards]
        servers = [partial(fault, self.note) for fault in (*topology.database.faults, *topology.streams.faults)]
        self.faults: list[Callable[[], Callable[[], object] | None]] = [*often, *often, *database, *servers, *rare]

    def run(self, seconds: float) -> None:
        """Cause faults for so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.fleet.tend()
            self.inject(self.random.choice(self.faults))
            # Beside each fault: they take seconds, and must meet it.
            self.inject(self.random.choice([self.erase, self.correct]))
            pause = time.monotonic() + self.random.choice(PAUSES)
            while time.monotonic() < min(pause, deadline):
                self._end_due(time.monotonic())
                time.sleep(0.05)

    def inject(self, fault: Callable[[], Callable[[], object] | None]) -> None:
        try:
            undo = fault()
        except (psycopg.Error, redis.RedisError, OSError) as error:  # its server is away just now
            self.note(f"not now: {type(error).__name__}")
            return
        if undo:
            number = self._faults = self._faults + 1
            self.log[-1] += f" (fault {number})"
            self._undo.append((time.monotonic() + self.random.choice([0.3, 1, 3, 6]), f"fault {number}", undo))

    def end(self) -> None:
        """End all faults."""
        self._end_due(float("inf"))
        self.topology.revive()
        self.fleet.resume()
        self.note("all faults ended")

    def note(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self._began:8.2f} s  {text}")

    def _end_due(self, now: float) -> None:
        for item in [it for it in self._undo if it[0] <= now]:
            self._undo.remove(item)
            with suppress(psycopg.Error, redis.RedisError, ProcessLookupError):
                item[2]()
            self.note(f"{item[1]} ended")

    # Processes

    def kill_worker(self) -> None:
        self._harm(signal.SIGKILL, "worker", "maintenance")

    def end_worker(self) -> None:
        self._harm(signal.SIGTERM, "worker", "maintenance")

    def kill_producer(self) -> None:
        self._harm(self.random.choice([signal.SIGKILL, signal.SIGTERM]), *PRODUCERS)

    def kill_other(self) -> None:
        self._harm(self.random.choice([signal.SIGKILL, signal.SIGTERM]), "beat", "serve")

    def _harm(self, number: signal.Signals, *kinds: str) -> None:
        if found := self.fleet.some(*kinds):
            self.note(f"{number.name} to {found[0]}")
            self.fleet.harm(found[1], number)

    def stop_process(self) -> Callable[[], object] | None:
        if not (found := self.fleet.some("worker", "maintenance", "beat", "serve", *PRODUCERS)):
            return None
        self.note(f"SIGSTOP to {found[0]}")
        self.fleet.harm(found[1], signal.SIGSTOP)
        return partial(self.fleet.harm, found[1], signal.SIGCONT)

    def kill_child(self) -> None:
        self._child(self.random.choice([signal.SIGKILL, signal.SIGTERM]))

    def stop_child(self) -> Callable[[], object] | None:
        pid = self._child(signal.SIGSTOP)
        return partial(os.kill, pid, signal.SIGCONT) if pid else None

    def _child(self, number: signal.Signals) -> int | None:
        children = sorted(self.fleet.children())
        if not children:
            return None
        pid = self.random.choice(children)
        self.note(f"{number.name} to a child, {pid}")
        os.kill(pid, number)
        return pid

    def two_beats(self) -> Callable[[], object] | None:
        if "beat-2" in self.fleet.wanted:
            return None
        self.note("a second beat")
        self.fleet.wanted.add("beat-2")
        return self._end_second_beat

    def _end_second_beat(self) -> None:
        self.fleet.wanted.discard("beat-2")
        if process := self.fleet.running.pop("beat-2", None):
            process.kill()

    def lose_node(self) -> Callable[[], object] | None:
        """Take one of the two nodes that count away for some seconds."""
        found = self.fleet.some("worker")
        if not found or len(self.fleet.wanted.intersection(WORKERS)) < len(WORKERS):
            return None
        name, process = found
        self.note(f"{name} is taken away")
        self.fleet.wanted.discard(name)
        self.fleet.harm(process, signal.SIGTERM)
        return partial(self.fleet.wanted.add, name)

    def command(self) -> None:
        if len(self.fleet.commands) < MOST_COMMANDS:
            arguments = self.random.choice(COMMANDS)
            self.note(f"usage-worker {' '.join(arguments)}")
            self.fleet.run(*arguments)

    def erase(self) -> Callable[[], object] | None:
        return self._perhaps_killed(self.administrator.erase()) if len(self.fleet.commands) < MOST_COMMANDS else None

    def correct(self) -> Callable[[], object] | None:
        process = self.administrator.correct() if len(self.fleet.commands) < MOST_COMMANDS else None
        return self._perhaps_killed(process) if process else None

    def _perhaps_killed(self, process: ChildProcess) -> Callable[[], object] | None:
        self.note(process.name)
        number = self.random.choice([None, None, None, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        return partial(self.fleet.harm, process, number) if number else None

    def kill_command(self) -> None:
        if running := [it for it in self.fleet.commands if it.exit_code is None]:
            process = self.random.choice(running)
            self.note(f"SIGKILL to {process.name}")
            self.fleet.harm(process, signal.SIGKILL)

    def change_shards(self) -> Callable[[], object]:
        """Restart with another number of shards, where it is greater the workers first; meanwhile both are in use."""
        others = [it for it in range(1, MOST_SHARDS + 1) if it != self.fleet.shards]
        before, self.fleet.shards = self.fleet.shards, self.random.choice(others)
        self.note(f"{before} shards become {self.fleet.shards}")
        halves: list[tuple[str, ...]] = [("worker", "maintenance", "beat"), ("serve", *PRODUCERS)]
        first, second = halves if self.fleet.shards > before else reversed(halves)
        self._restart(first)
        return partial(self._restart, second)

    def _restart(self, kinds: tuple[str, ...]) -> None:
        for name, process in self.fleet.running.items():
            if name.startswith(kinds) and process.exit_code is None:
                self.fleet.harm(process, signal.SIGTERM)

    # PostgreSQL

    def terminate(self) -> None:
        function = self.random.choice(["pg_terminate_backend", "pg_cancel_backend"])
        self.note(f"{function} of some sessions")
        others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        self.topology.database.execute(f"SELECT {function}(pid) {others} AND random() < 0.5")

    def kill_backend(self) -> None:
        """Kill the process of a session: PostgreSQL ends all others, and recovers."""
        found = self.topology.database.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'usage%' ORDER BY random() LIMIT 1"
        )
        for (pid,) in found:
            self.note("SIGKILL to a session's process")
            os.kill(pid, signal.SIGKILL)

    def lock_table(self) -> Callable[[], object]:
        table = self.random.choice(TABLES)
        mode = self.random.choice(["ACCESS EXCLUSIVE", "SHARE"])
        return self._hold(f"LOCK TABLE public.{table} IN {mode} MODE", f"{mode} lock on {table}")

    def lock_rows(self) -> Callable[[], object]:
        table = self.random.choice(["public.user_agents", "auth.users", "public.agents"])
        return self._hold(f"SELECT FROM {table} ORDER BY random() LIMIT 20 FOR UPDATE", f"20 rows of {table} held")

    def _hold(self, statement: str, text: str) -> Callable[[], object]:
        connection = psycopg.connect(self.topology.database.direct_url, connect_timeout=5)
        try:
            connection.execute("SET lock_timeout = '2s'")
            connection.execute(statement.encode())
        except psycopg.Error:
            connection.close()
            raise
        self.note(text)
        return connection.close

    def cut_at_commit(self) -> None:
        moments: list[Cut] = ["before COMMIT", "after COMMIT"]
        moment = self.random.choice(moments)
        self.note(f"connection cut {moment}")
        self.random.choice(self.topology.database.proxies).cut_next(moment)

    def cut_database(self) -> None:
        self.note("all connections to PostgreSQL cut")
        for proxy in self.topology.database.proxies:
            proxy.cut_all()

    def stall_database(self) -> Callable[[], object]:
        proxy = self.random.choice(self.topology.database.proxies)
        stack = ExitStack()
        stack.enter_context(proxy.silent() if self.random.random() < 0.5 else proxy.unreachable())
        self.note("the network to PostgreSQL stalls")
        return stack.close
