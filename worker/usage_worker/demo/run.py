"""The demo: live traffic, a killed worker and a backlog, then every counter is compared with the oracle."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from usage_worker.demo.kill import kill_inside_batch
from usage_worker.demo.publish import AGENTS, AT_ONCE, USERS
from usage_worker.demo.publishers import AT_A_TIME, Publishers
from usage_worker.demo.result import DemoResult, LiveCounters, Outage
from usage_worker.demo.sql import query
from usage_worker.errors import ProcessError
from usage_worker.local.isolated_servers import isolated_servers
from usage_worker.local.supervisor import Supervisor
from usage_worker.migrate import Runner
from usage_worker.queue.stream import GROUP, EventStream
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.intake import Intake
from usage_worker.testing import Population
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.testing import Oracle

WAIT_SECONDS = 120.0
POLL_SECONDS = 0.1
# One event in so many is paced like live traffic; the others are published at once while no worker counts.
LIVE_PART = 4
# The worker is killed when one live event in so many was counted.
KILL_PART = 2
# By default a dead worker's entries are reclaimed after 15 s.
VARIABLES = {"USAGE_RECLAIM_IDLE": "2"}


def run_demo(events: int, echo: Callable[[str], None], on_progress: Callable[[LiveCounters], None]) -> DemoResult:
    """Start everything, publish, kill a worker, wait until all is counted, compare, and stop everything.

    Args:
        events: the number of events to publish, duplicates not counted.
        echo: receives one line for each step.
        on_progress: receives the counters several times per second.

    Raises:
        ProcessError: a process failed, or the events were not counted in time.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="usage-demo-")))
        echo("starting PostgreSQL and Valkey")
        servers = stack.enter_context(isolated_servers())
        Runner(servers.database_url).up()
        store = stack.enter_context(Store(servers.database_url))
        population = Population.of(USERS, AGENTS)
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        echo("starting a Celery worker, beat and Flower")
        urls = servers.database_url, servers.redis_url
        celery = stack.enter_context(Supervisor(*urls, log_dir=folder, variables=VARIABLES))
        celery.wait_ready()
        if celery.flower_listens:
            echo(f"Flower, until the demo ends: {celery.flower_url}")
        publishers = stack.enter_context(Publishers(servers.redis_url, folder))
        stream = EventStream.of(load_settings().model_copy(update={"redis_url": servers.redis_url}))
        stack.callback(stream.close)
        return DemoRun(store, stream, celery, publishers, echo, on_progress).run(events)


class DemoRun:
    """One run on servers that have users and agents."""

    def __init__(
        self,
        store: Store,
        stream: EventStream,
        celery: Supervisor,
        publishers: Publishers,
        echo: Callable[[str], None],
        on_progress: Callable[[LiveCounters], None],
    ) -> None:
        self._store = store
        self._stream = stream
        self._celery = celery
        self._publishers = publishers
        self._echo = echo
        self._on_progress = on_progress

    def run(self, events: int) -> DemoResult:
        """Publish the events, kill the worker meanwhile, and return the result once all are counted.

        Raises:
            ProcessError: a process failed, or the events were not counted in time.
        """
        live = events // LIVE_PART
        started = time.monotonic()
        self._echo(f"publishing {live:,} events from {AT_A_TIME} processes, at the pace of an application")
        self._publishers.start(live)
        self._await(lambda intake: intake.accepted >= live // KILL_PART)
        latency = self._store.rows(testing_query("visible_latency"))[0]
        outage = self._kill_worker(events - live)
        return self._compare(time.monotonic() - started, latency, outage)

    def _compare(self, seconds: float, latency: dict[str, float], outage: Outage) -> DemoResult:
        self._echo("comparing every counter with the oracle")
        oracle, unknown_user_events = self._publishers.read_back()
        intake = self._store.intake_totals()
        differences = self._differences(intake, oracle, unknown_user_events)
        return DemoResult(
            published=oracle.published + unknown_user_events,
            **intake._asdict(),
            exact=not differences,
            differences=differences,
            events_per_second=round(intake.accepted / seconds, 1),
            visible_p50_ms=round(latency["p50"], 1),
            visible_p99_ms=round(latency["p99"], 1),
            **asdict(outage),
            busiest_pair=self._store.rows(query("busiest_pair"))[0],
            flower_url=self._celery.flower_url if self._celery.flower_listens else None,
        )

    def _kill_worker(self, events: int) -> Outage:
        """Kill the worker inside a batch, publish events while none counts, restart it, and await the last event."""
        self._publishers.start(events, AT_ONCE)
        worker = self._celery.pids["worker1"]
        kill_inside_batch(self._store, worker)
        entries = self._pending()
        self._echo(f"killed worker {worker} by SIGKILL in the middle of a batch, with {entries} entries")
        self._echo(f"publishing {events:,} events at once before it is restarted")
        self._await(lambda _: self._publishers.sent() is not None, restart=False)
        sent, before = self._publishers.sent() or 0, self._store.intake_totals().accepted
        self._echo(f"{sent - before:,} events wait; the supervisor restarts the worker")
        rate = (sent - before) / self._work_off(sent)
        self._echo(f"the backlog was worked off at {rate:,.0f} events per second")
        return Outage(worker, entries, sent - before, round(rate, 1))

    def _work_off(self, sent: int) -> float:
        """Have the worker restarted, and return the seconds from its first read to the last commit."""
        dead, idle_until = self._consumers(), time.monotonic()

        def is_done(intake: Intake) -> bool:
            nonlocal idle_until
            if self._consumers() == dead:
                idle_until = time.monotonic()
            return intake.accepted >= sent

        self._await(is_done)
        return time.monotonic() - idle_until

    def _consumers(self) -> int:
        """Return the number of consumers; a new process of a worker is a new one from its first read on."""
        found = 0
        for key in map(self._stream.key, range(self._stream.shards)):
            with self._stream.connection.client(key) as client:
                found += len(client.xinfo_consumers(key, GROUP))
        return found

    def _pending(self) -> int:
        """Return the number of entries that were read and not acknowledged."""
        return sum(self._stream.backlog(shard).pending for shard in range(self._stream.shards))

    def _await(self, is_reached: Callable[[Intake], bool], *, restart: bool = True) -> None:
        """Show the counters until the intake totals are as wanted; let dead processes be restarted meanwhile, or not.

        Raises:
            ProcessError: a publisher failed, or that took too long.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_reached(intake := self._show_counters()):
            if restart:
                self._celery.poll()
            self._publishers.sent()  # raises where one failed
            if time.monotonic() > deadline:
                raise ProcessError(f"{intake.accepted:,} events were counted after {WAIT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _show_counters(self) -> Intake:
        intake = self._store.intake_totals()
        self._on_progress(LiveCounters(intake, **self._store.rows(query("live_totals"))[0]))
        return intake

    def _differences(self, intake: Intake, oracle: Oracle, unknown_user_events: int) -> list[str]:
        """Return a line for each counter and each intake total that is not the oracle's."""
        expected = Intake(
            accepted=oracle.published + unknown_user_events,
            applied=oracle.distinct,
            duplicate=oracle.published - oracle.distinct,
            quarantined=unknown_user_events,
        )
        return oracle.differences(self._store.rows(testing_query("counters"))) + [
            f"{name}: {actual} instead of {value}"
            for name, actual, value in zip(Intake._fields, intake, expected, strict=True)
            if actual != value
        ]
