"""The harness of the fault tests: servers, traffic with known totals, worker processes, and the check of totals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid4, uuid5

import psycopg
import redis
from psycopg.rows import dict_row

from tests.faults.totals import wrong_totals
from tests.helpers import eventually
from tests.preloaded import Forked, preloaded
from usage_worker.demo.publish import AGENTS, USERS
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.stream import GROUP
from usage_worker.service.resources import Resources
from usage_worker.settings import Settings
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Mix, Population, generate_usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from usage_worker.store.intake import Intake

ROOT = Path(__file__).parents[2]
UNKNOWN_USER = str(uuid5(NAMESPACE_OID, "nobody"))  # Some events of the demo have this user.
Event = dict[str, Any]


class Harness:
    """One database, one Redis, a record of every event sent, and the processes that count them."""

    def __init__(self, database: str, redis_url: str, **settings: Any) -> None:
        self.database, self.redis_url = database, redis_url
        self.env = {"USAGE_RECLAIM_IDLE": "0.5", "USAGE_FLUSH_INTERVAL": "0.2", "USAGE_FLUSH_BUDGET": "5"}
        # PostgreSQL ends the transaction of a stopped worker after this time; the default is 15 s.
        self.env["PGOPTIONS"] = "-c idle_in_transaction_session_timeout=1s"
        self.resources = Resources(Settings(DATABASE_URL=database, REDIS_URL=redis_url, reclaim_idle=0.5, **settings))
        self.population = Population.of(USERS, AGENTS)
        self.oracle, self.days = Oracle(), defaultdict[date, Oracle](Oracle)
        self.sent = 0
        self.unknown_pairs: set[str] = set()
        users, agents = self.population.users, self.population.agents
        self.resources.store.rows(testing_query("seed_population"), users=users, agents=agents)

    @cached_property
    def redis(self) -> redis.Redis:
        """A client of the only server."""
        return redis.Redis.from_url(self.redis_url, protocol=2)

    def reconnect(self) -> None:
        """Close all connections, since new settings of a database apply only to new ones."""
        self.resources.close()
        self.resources = Resources(self.resources.settings)

    def close(self) -> None:
        self.resources.close()
        if "redis" in self.__dict__:
            self.redis.close()

    # Traffic

    def traffic(self, count: int, *, seed: int = 1, mix: Mix = "uniform", days: int = 3) -> list[Event]:
        """Generate complete events of the last days at distinct times; about 2 % are ratings."""
        random, now = Random(seed), datetime.now(UTC)
        events = []
        for number, fields in enumerate(generate_usage(self.population, count, mix, seed)):
            when = now - timedelta(seconds=random.randrange(days * 86_400), microseconds=number)
            event = fields | {"event_id": uuid4(), "occurred_at": when}
            if random.random() < 0.02:
                kept = {key: event[key] for key in ("event_id", "occurred_at", "user_id", "agent_id")}
                event = kept | {"type": "rating", "rating": f"{random.randint(0, 500) / 100}"}
            events.append(event)
        return events

    def record(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Record sent events: those of the unknown user must be quarantined, all others counted."""
        for event in events:
            self.sent += 1
            if str(event["user_id"]) == UNKNOWN_USER:
                self.unknown_pairs.add(str(event["event_id"]))
                continue
            self.oracle.add(event)
            when = event["occurred_at"]
            when = datetime.fromisoformat(when) if isinstance(when, str) else when
            self.days[when.astimezone(UTC).date()].add(event)

    def publish(self, events: Iterable[Event], timeout: float = 30) -> None:
        """Send events through a publisher, as an application does."""
        with UsagePublisher(self.redis_url, linger=0) as publisher:
            for event in events:
                assert publisher.add(dict(event)) is not None
                self.record([event])
            assert publisher.flush(timeout)

    def xadd(self, events: list[Event], shard: int, entry_id: str = "*", **fields: str) -> str:
        """Add an entry as a producer in another language does: without a key, to any shard. Return its ID."""
        self.record(events)
        body = json.dumps(events, default=str)
        entry: Any = {"v": "1", "n": str(len(events)), "events": body, **fields}
        key = self.resources.stream.key(shard)
        with self.resources.stream.connection.client(key) as client:
            added: Any = client.xadd(key, entry, id=entry_id)
        return str(added.decode())

    # Processes

    def command(self, module: str, *arguments: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start a module of the project as a process that uses the servers of the harness."""
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=stdout)

    def worker(self, *arguments: str) -> Forked:
        """Start a worker process that flushes, with the arguments of its module."""
        return self._fork("tests.faults.flusher", *arguments)

    def _fork(self, module: str, *arguments: str, stdin: int = 0) -> Forked:
        """Start a module as `command` does, without its own start of Python."""
        return preloaded().start([module, *arguments], ROOT, self._environment, (stdin, 1, 2), module)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.env, "DATABASE_URL": self.database, "REDIS_URL": self.redis_url}

    @contextmanager
    def workers(self, count: int, *arguments: str) -> Iterator[list[Forked]]:
        """Run worker processes that flush until the block ends; a worker that fails by itself fails the test."""
        with ExitStack() as stack:
            processes = [self.worker(*arguments) for _ in range(count)]
            for process in processes:
                stack.callback(_end, process)
            yield processes
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
                # SIGTERM kills a process that has not installed its handler yet.
                assert process.wait(120) in (0, -signal.SIGKILL, -signal.SIGTERM)

    @contextmanager
    def publishers(self, folder: Path, count: int, events: int, timeout: float = 180) -> Iterator[None]:
        """Run publisher processes, each with a journal and so many events or, until the block ends, more of them.

        At the end of the block they have sent all.
        """
        journals = [folder / f"journal-{self.sent}-{number}" for number in range(count)]
        theirs, ours = os.pipe()  # they go on until their standard input ends
        processes = [
            self._fork("tests.faults.publisher", str(journal), str(events), str(self.sent + seed), stdin=theirs)
            for seed, journal in enumerate(journals)
        ]
        os.close(theirs)
        with ExitStack() as stack:
            stack.callback(self._record_journals, journals)
            for process in processes:
                stack.callback(_end, process)
            with os.fdopen(ours, "wb"):
                yield
            for process in processes:
                assert process.wait(timeout) == 0

    def _record_journals(self, journals: Iterable[Path]) -> None:
        for journal in filter(Path.exists, journals):
            self.record(json.loads(line) for line in journal.read_text().splitlines())

    def drain(self, shard: int | None = None) -> None:
        """Flush in this process until no entry is left or pending."""
        for number in range(self.resources.stream.shards) if shard is None else [shard]:
            eventually(partial(self._empty_after_flush, number), 30)

    def _empty_after_flush(self, shard: int) -> bool:
        self.resources.flusher.flush(shard)
        backlog = self.resources.stream.backlog(shard)
        return backlog.entries == backlog.pending == 0

    # Totals

    @property
    def intake(self) -> Intake:
        return self.resources.store.intake_totals()

    @property
    def pending(self) -> int:
        return sum(self.resources.stream.backlog(shard).pending for shard in range(self.resources.stream.shards))

    @property
    def vanished(self) -> int:
        return sum(self.resources.stream.vanished(shard).entries for shard in range(self.resources.stream.shards))

    def fetch(self, sql: str) -> list[dict[str, Any]]:
        # On a busy machine a second may pass before COMMIT, and `env` ends a transaction that is idle for so long.
        with psycopg.connect(self.database, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(sql.encode()).fetchall()

    def has_counted(self, events: int) -> bool:
        return self.intake.accepted >= events

    def settled(self) -> bool:
        """Return whether all sent events are in the intake totals and no entry waits."""
        stream = self.resources.stream
        empty = not any(stream.backlog(shard).entries for shard in range(stream.shards))
        return empty and self.intake.accepted >= self.sent and not self.pending

    def check(self) -> None:
        """Assert that all totals equal the oracle, the intake totals equal the sent events, and no entry waits."""
        self.check_totals()
        intake = self.intake
        assert intake.accepted == self.sent == intake.applied + intake.duplicate + intake.quarantined
        assert (intake.quarantined > 0) == bool(self.unknown_pairs)
        assert intake.quarantined >= len(self.unknown_pairs)
        for shard in range(self.resources.stream.shards):
            key = self.resources.stream.key(shard)
            with self.resources.stream.connection.client(key) as client:
                assert client.xlen(key) == 0
                groups: Any = client.xinfo_groups(key) if client.exists(key) else []
            assert [group["pending"] for group in groups if group["name"] == GROUP.encode()] in ([], [0])

    def check_totals(self) -> None:
        """Assert that all totals equal the oracle, however often the events arrived."""
        letters = self.fetch("SELECT reason, sum(events) AS events FROM usage_dead_letters GROUP BY reason")
        print("dead letters:", letters)  # noqa: T201 - what to look at first where a total is wrong
        assert wrong_totals(self.resources.store, self.oracle, self.days) == []
        assert self.intake.applied == self.oracle.distinct


def process_state(pid: int) -> str:
    """Return the state of a process as the kernel's letter: T stopped, Z zombie, empty if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def _end(process: Forked) -> None:
    process.kill()
    process.wait()
