"""The demo: the real system on real servers, a few seconds of traffic, and a comparison down to the last decimal."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from usage_worker.demo.publish import AGENTS, USERS
from usage_worker.errors import ProcessError
from usage_worker.local.processes import ChildProcess
from usage_worker.local.servers import Servers
from usage_worker.local.supervisor import Supervisor
from usage_worker.migrate import Runner
from usage_worker.settings import Settings
from usage_worker.store import Store
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.store import Intake

PUBLISHERS = 2
DRAIN_SECONDS = 120.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured. Latency is from an event's time to the commit that made it visible."""

    published: int
    accepted: int
    applied: int
    duplicate: int
    quarantined: int
    exact: bool
    differences: list[str]
    events_per_second: float
    visible_p50_ms: float
    visible_p99_ms: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_demo(events: int, echo: Callable[[str], None], progress: Callable[[Intake], None]) -> DemoResult:
    """Start everything, publish, wait until all is counted, compare, stop everything.

    Raises:
        ProcessError: a process failed, or the backlog was not drained within two minutes.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="usage-demo-")))
        echo("starting PostgreSQL and Valkey")
        # Never the servers that the environment names: the demo's users are made up.
        servers = stack.enter_context(Servers(Settings.model_construct()))
        Runner(servers.database_url).up()
        store = stack.enter_context(Store(servers.database_url))
        population = Population.of(USERS, AGENTS)
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        echo("starting a Celery worker with two processes, beat and Flower")
        celery = stack.enter_context(Supervisor(servers.database_url, servers.redis_url, log_dir=folder))
        celery.wait_ready()
        echo(f"publishing {events:,} events from {PUBLISHERS} processes")
        started = time.monotonic()
        journals = stack.enter_context(_publishers(servers, folder, events))
        _await_all(store, journals, celery, progress)
        seconds = time.monotonic() - started
        echo("comparing every counter with the oracle")
        return _result(store, journals, seconds)


@dataclass
class _Publisher:
    journal: Path
    child: ChildProcess
    log: Path

    def sent(self) -> int | None:
        """How many events it sent, once it has ended."""
        if self.child.exit_code is None:
            return None
        if self.child.exit_code != 0:
            raise ProcessError(f"a publisher exited with {self.child.exit_code}: {self.child.log_tail()}")
        report = json.loads(self.log.read_text().splitlines()[-1])
        return int(report["sent"])


@contextmanager
def _publishers(servers: Servers, folder: Path, events: int) -> Iterator[list[_Publisher]]:
    env = os.environ | {"REDIS_URL": servers.redis_url}
    publishers = []
    try:
        for number in range(PUBLISHERS):
            journal, log = folder / f"journal-{number}.ndjson", folder / f"publisher-{number}.log"
            share = events // PUBLISHERS + (events % PUBLISHERS if number == 0 else 0)
            command = [sys.executable, "-m", "usage_worker.demo.publish", str(journal), str(share), str(number)]
            publishers.append(_Publisher(journal, ChildProcess(f"publisher-{number}", command, env=env, log=log), log))
        yield publishers
    finally:
        for publisher in publishers:
            publisher.child.stop(5.0)


def _await_all(
    store: Store, publishers: list[_Publisher], celery: Supervisor, progress: Callable[[Intake], None]
) -> None:
    """Wait until the books hold every event that the publishers sent."""
    deadline = None
    while True:
        celery.poll()
        intake = store.intake_totals()
        progress(intake)
        sent = [publisher.sent() for publisher in publishers]
        if None not in sent:
            if intake.accepted >= sum(number or 0 for number in sent):
                return
            deadline = deadline or time.monotonic() + DRAIN_SECONDS
            if time.monotonic() > deadline:
                raise ProcessError(f"{intake.accepted} of {sent} events were counted after {DRAIN_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _result(store: Store, publishers: list[_Publisher], seconds: float) -> DemoResult:
    oracle, unknown_pairs = Oracle(), 0
    nobody = str(uuid5(NAMESPACE_OID, "nobody"))
    for publisher in publishers:
        for line in publisher.journal.read_text().splitlines():
            event = json.loads(line)
            if event["user_id"] == nobody:
                unknown_pairs += 1
            else:
                oracle.add(event)
    intake = store.intake_totals()
    differences = oracle.differences(store.rows(testing_query("counters")))
    expected = {
        "accepted": oracle.published + unknown_pairs,
        "applied": oracle.distinct,
        "duplicate": oracle.published - oracle.distinct,
        "quarantined": unknown_pairs,
    }
    booked = intake._asdict()
    differences += [
        f"{key}: {booked[key]} instead of {value}" for key, value in expected.items() if booked[key] != value
    ]
    latency = store.rows(testing_query("visible_latency"))[0]
    return DemoResult(
        published=oracle.published + unknown_pairs,
        **booked,
        exact=not differences,
        differences=differences,
        events_per_second=round(intake.accepted / seconds, 1),
        visible_p50_ms=round(latency["p50"], 1),
        visible_p99_ms=round(latency["p99"], 1),
    )
