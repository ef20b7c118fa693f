"""The demo: a few seconds of traffic through the real system, then every counter is compared with the oracle."""

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

from usage_worker.demo.publish import AGENTS, UNKNOWN_USER, USERS
from usage_worker.errors import ProcessError
from usage_worker.local.processes import ChildProcess
from usage_worker.local.servers import Servers
from usage_worker.local.supervisor import Supervisor
from usage_worker.migrate import Runner
from usage_worker.settings import Settings
from usage_worker.store import Intake, Store
from usage_worker.testing import Oracle, Population
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PUBLISHERS = 2
DRAIN_SECONDS = 120.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        published: events handed to the publishers, duplicates included.
        accepted: events read from the queue: applied + duplicate + quarantined.
        applied: events counted.
        duplicate: events recognised as counted before.
        quarantined: events of a user who does not exist.
        exact: whether every counter equals the oracle's.
        differences: one line for each figure that does not.
        events_per_second: accepted events over the time from the first publisher's start.
        visible_p50_ms: from an event's time to the commit that made it visible.
        visible_p99_ms: likewise.
    """

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
        """Return the object that `--json` prints."""
        return asdict(self)


def run_demo(events: int, echo: Callable[[str], None], on_progress: Callable[[Intake], None]) -> DemoResult:
    """Start everything, publish, wait until all is counted, compare, and stop everything.

    Args:
        events: the number of events to publish, duplicates not counted.
        echo: receives one line for each step.
        on_progress: receives the intake totals several times per second.

    Raises:
        ProcessError: a process failed, or the backlog was not drained within two minutes.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="usage-demo-")))
        echo("starting PostgreSQL and Valkey")
        # Never on the servers that the environment names: the demo invents users and agents.
        servers = stack.enter_context(Servers(Settings.model_construct()))
        Runner(servers.database_url).up()
        store = stack.enter_context(Store(servers.database_url))
        population = Population.of(USERS, AGENTS)
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        echo("starting a Celery worker with three processes, beat and Flower")
        celery = stack.enter_context(Supervisor(servers.database_url, servers.redis_url, log_dir=folder))
        celery.wait_ready()
        echo(f"publishing {events:,} events from {PUBLISHERS} processes")
        started = time.monotonic()
        publishers = stack.enter_context(_publishers(servers, folder, events))
        _wait_until_counted(store, publishers, celery, on_progress)
        seconds = time.monotonic() - started
        echo("comparing every counter with the oracle")
        return _result(store, publishers, seconds)


@dataclass
class _PublisherProcess:
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


@contextmanager
def _publishers(servers: Servers, folder: Path, events: int) -> Iterator[list[_PublisherProcess]]:
    env = os.environ | {"REDIS_URL": servers.redis_url}
    publishers = []
    try:
        for number in range(PUBLISHERS):
            file, log = folder / f"events-{number}.ndjson", folder / f"publisher-{number}.log"
            share = events // PUBLISHERS + (events % PUBLISHERS if number == 0 else 0)
            command = [sys.executable, "-m", "usage_worker.demo.publish", str(file), str(share), str(number)]
            child = ChildProcess(f"publisher-{number}", command, env=env, log=log)
            publishers.append(_PublisherProcess(file, child, log))
        yield publishers
    finally:
        for publisher in publishers:
            publisher.child.stop(5.0)


def _wait_until_counted(
    store: Store, publishers: list[_PublisherProcess], celery: Supervisor, on_progress: Callable[[Intake], None]
) -> None:
    """Wait until the intake totals include every event that the publishers sent."""
    deadline = None
    while True:
        celery.poll()
        intake = store.intake_totals()
        on_progress(intake)
        sent = [publisher.sent() for publisher in publishers]
        if None not in sent:
            if intake.accepted >= sum(number or 0 for number in sent):
                return
            deadline = deadline or time.monotonic() + DRAIN_SECONDS
            if time.monotonic() > deadline:
                raise ProcessError(f"{intake.accepted} of {sent} events were counted after {DRAIN_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _result(store: Store, publishers: list[_PublisherProcess], seconds: float) -> DemoResult:
    oracle, unknown_user_events = _read_event_files(publisher.event_file for publisher in publishers)
    intake = store.intake_totals()
    expected = Intake(
        accepted=oracle.published + unknown_user_events,
        applied=oracle.distinct,
        duplicate=oracle.published - oracle.distinct,
        quarantined=unknown_user_events,
    )
    differences = oracle.differences(store.rows(testing_query("counters")))
    differences += [
        f"{name}: {actual} instead of {value}"
        for name, actual, value in zip(Intake._fields, intake, expected, strict=True)
        if actual != value
    ]
    latency = store.rows(testing_query("visible_latency"))[0]
    return DemoResult(
        published=expected.accepted,
        **intake._asdict(),
        exact=not differences,
        differences=differences,
        events_per_second=round(intake.accepted / seconds, 1),
        visible_p50_ms=round(latency["p50"], 1),
        visible_p99_ms=round(latency["p99"], 1),
    )


def _read_event_files(files: Iterable[Path]) -> tuple[Oracle, int]:
    """Return an oracle of the published events, and the number of events of the unknown user."""
    oracle, unknown_user_events = Oracle(), 0
    for file in files:
        for line in file.read_text().splitlines():
            event = json.loads(line)
            if event["user_id"] == str(UNKNOWN_USER):
                unknown_user_events += 1
            else:
                oracle.add(event)
    return oracle, unknown_user_events
