"""Faults at random: what happens, when it ends, and the schedule that is printed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import redis

from tests.chaos.fleet import PRODUCERS
from usage_worker.queue.stream import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.chaos.fleet import Fleet
    from tests.chaos.topology import Plain

SHARDS = 2
COMMANDS = [
    *(("run", task) for task in ("purge", "partitions", "reconcile", "refresh", "hours", "dead-letters")),
    *(("status", "--json"), ("drain",), ("report",), ("dead-letters", "list", "--json"), ("doctor",)),
]
# What others may write under our names: these keys are aids, and replaced.
AIDS = ["usage:processes", "usage:heartbeat"]
AIDS += [f"usage:{name}:{{{shard}}}" for name in ("flush", "flushing", "deaths") for shard in range(SHARDS)]
TABLES = ["user_agents", "usage_daily", "usage_events", "usage_entries", "usage_dead_letters", "agents"]


class Chaos:
    """Injects faults into a fleet and its servers, and ends each after some seconds."""

    def __init__(self, fleet: Fleet, topology: Plain, random: Random) -> None:
        self.fleet, self.topology, self.random = fleet, topology, random
        self.log: list[str] = []
        self._began = time.monotonic()
        self._undo: list[tuple[float, str, Callable[[], object]]] = []
        often = [
            self.kill_worker,
            self.kill_child,
            self.stop_process,
            self.stop_child,
            self.kill_producer,
            self.command,
        ]
        database = [self.kill_postgres, self.crash_postgres, self.terminate, self.kill_backend, self.lock_table]
        database += [self.lock_rows, self.cut_at_commit, self.stall_database, self.lock_rows, self.terminate]
        stream = [self.kill_redis, self.restart_redis, self.kill_clients, self.destroy_group, self.write_aids]
        stream += [self.fill_redis, self.stall_redis, self.cut_redis, self.delete_bindings]
        rare = [self.kill_other, self.end_worker, self.two_beats, self.cut_database]
        self.faults = [*often, *often, *database, *stream, *rare]

    def run(self, seconds: float) -> None:
        """Cause faults for so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.fleet.tend()
            self.inject(self.random.choice(self.faults))
            # The pace of the faults; their effects are awaited at the end.
            pause = time.monotonic() + self.random.choice([0.1, 0.5, 1, 2, 4])
            while time.monotonic() < min(pause, deadline):
                self._end_due(time.monotonic())
                time.sleep(0.05)

    def inject(self, fault: Callable[[], Callable[[], object] | None]) -> None:
        try:
            undo = fault()
        except (psycopg.Error, redis.RedisError, OSError) as error:  # its server is away just now
            self.note(f"{fault.__name__}: not now, {type(error).__name__}")
            return
        if undo:
            self._undo.append((time.monotonic() + self.random.choice([0.3, 1, 3, 6]), fault.__name__, undo))

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
        self.fleet.harmed.add(pid)
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

    def command(self) -> None:
        if len(self.fleet.commands) < 2:
            arguments = self.random.choice(COMMANDS)
            self.note(f"usage-worker {' '.join(arguments)}")
            self.fleet.run(*arguments)

    # PostgreSQL

    def kill_postgres(self) -> Callable[[], object] | None:
        if not self.topology.postgres.is_running:
            return None
        self.note("SIGKILL to PostgreSQL")
        return self.topology.kill_postgres()

    def crash_postgres(self) -> None:
        if self.topology.postgres.is_running:
            self.note("PostgreSQL restarts")
            self.topology.crash_postgres()

    def terminate(self) -> None:
        function = self.random.choice(["pg_terminate_backend", "pg_cancel_backend"])
        self.note(f"{function} of some sessions")
        others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        self.topology.execute(f"SELECT {function}(pid) {others} AND random() < 0.5")

    def kill_backend(self) -> None:
        """Kill the process of a session: PostgreSQL ends all others, and recovers."""
        found = self.topology.execute(
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
        connection = psycopg.connect(self.topology.database_url, connect_timeout=5)
        try:
            connection.execute("SET lock_timeout = '2s'")
            connection.execute(statement.encode())
        except psycopg.Error:
            connection.close()
            raise
        self.note(text)
        return connection.close

    def cut_at_commit(self) -> None:
        moment = self.random.choice(["before COMMIT", "after COMMIT"])
        self.note(f"connection cut {moment}")
        self.topology.database_proxy.cut_next(moment)  # type: ignore[arg-type]

    def cut_database(self) -> None:
        self.note("all connections to PostgreSQL cut")
        self.topology.database_proxy.cut_all()

    def stall_database(self) -> Callable[[], object]:
        return self._stall(self.topology.database_proxy, "PostgreSQL")

    # Redis

    def kill_redis(self) -> Callable[[], object] | None:
        if not self.topology.redis_server.is_running:
            return None
        self.note("SIGKILL to Redis")
        return self.topology.kill_redis()

    def restart_redis(self) -> None:
        if self.topology.redis_server.is_running:
            self.note("Redis restarts")
            self.topology.restart_redis()

    def kill_clients(self) -> None:
        self.note("CLIENT KILL of all")
        self.topology.client.client_kill_filter(skipme=True, _type="normal")

    def destroy_group(self) -> None:
        self.note("consumer group destroyed")
        with suppress(redis.ResponseError):
            self.topology.client.xgroup_destroy(f"usage:events:{{{self.random.randrange(SHARDS)}}}", GROUP)

    def write_aids(self) -> None:
        key = self.random.choice(AIDS)
        self.note(f"something else written to {key}")
        if self.random.random() < 0.5:
            self.topology.client.set(key, "something else")
        else:
            self.topology.client.delete(key)
            self.topology.client.lpush(key, "something else")

    def delete_bindings(self) -> None:
        self.note("Celery's bindings deleted")
        keys = list(self.topology.client.scan_iter("_kombu.binding.*"))
        if keys:
            self.topology.client.delete(*keys)

    def fill_redis(self) -> Callable[[], object]:
        self.note("Redis is full")
        return self.topology.fill_redis()

    def cut_redis(self) -> None:
        self.note("connections of the proxy to Redis cut")
        self.topology.redis_proxy.cut_all()

    def stall_redis(self) -> Callable[[], object]:
        return self._stall(self.topology.redis_proxy, "Redis")

    def _stall(self, proxy: object, name: str) -> Callable[[], object]:
        stall = proxy.silent() if self.random.random() < 0.5 else proxy.unreachable()  # type: ignore[attr-defined]
        stall.__enter__()
        self.note(f"network to {name} stalls")
        return partial(stall.__exit__, None, None, None)
