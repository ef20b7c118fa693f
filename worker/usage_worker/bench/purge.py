"""The purge under load: how much longer events wait to be counted while a million deleted rows are purged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from usage_worker.bench.environment import open_environment
from usage_worker.bench.load import AGENTS, Load
from usage_worker.bench.paths import measure_product
from usage_worker.bench.sql import query as bench_query
from usage_worker.errors import ProcessError
from usage_worker.store.purge import purge_due
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.bench.environment import BenchEnvironment

PURGE_AFTER = timedelta(days=30)
PURGE = [sys.executable, "-m", "usage_worker.cli", "run", "purge", "--json"]
PURGE_TIMEOUT_SECONDS = 1800.0


@dataclass(slots=True)
class PurgeResult:
    """What counting during a purge measured, with the uniform mix.

    Attributes:
        purged: rows removed.
        purge_seconds: the time that took.
        events_per_second: the maximum, without a purge.
        paced_per_second: the rate at which events were published during the purge.
        quiet_p99_ms: from an event's time to its commit, at the same rate without a purge.
        visible_p50_ms: the same during the purge.
        visible_p99_ms: likewise.
        paced_seconds: the time until all events were counted.
        exact: whether every total was right and nothing was left to purge.
    """

    purged: int = 0
    purge_seconds: float = 0.0
    events_per_second: float = 0.0
    paced_per_second: float = 0.0
    quiet_p99_ms: float = 0.0
    visible_p50_ms: float = 0.0
    visible_p99_ms: float = 0.0
    paced_seconds: float = 0.0
    exact: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return asdict(self)


def run_purge(rows: int, events: int, pairs: int, share: float, echo: Callable[[str], None]) -> PurgeResult:
    """Count events while deleted rows are purged, until none is left; check every total.

    Args:
        rows: the number of deleted rows.
        events: the number of events counted meanwhile.
        pairs: the number of rows that stay.
        share: the rate of the events as a share of the maximum.
        echo: receives one line for each step.

    Raises:
        ProcessError: a process failed, or did not end in time.
    """
    result = PurgeResult()
    with open_environment(pairs // AGENTS) as environment:
        store, users = environment.store, environment.users
        result.events_per_second = events / _count(environment, Load(events, "uniform", 1, users))
        result.paced_per_second = rate = share * result.events_per_second
        echo(f"{result.events_per_second:,.0f} events per second at most; {rate:,.0f} from here on")
        _count(environment, Load(events // 3, "uniform", 2, users, rate))
        result.quiet_p99_ms = store.rows(testing_query("visible_latency"))[0]["p99"]
        echo(f"event to visible: p99 {result.quiet_p99_ms:,.0f} ms; now while {rows:,} rows are purged")
        load = Load(events, "uniform", 3, users, rate)
        result.paced_seconds = _count(environment, load, rows, result)
        latency = store.rows(testing_query("visible_latency"))[0]
        result.visible_p50_ms, result.visible_p99_ms = latency["p50"], latency["p99"]
        result.exact = not purge_due(store, PURGE_AFTER).remaining and environment.is_exact([load])
    return result


def _count(environment: BenchEnvironment, load: Load, rows: int = 0, result: PurgeResult | None = None) -> float:
    """Count a load from empty counters, purging `rows` meanwhile; return the seconds until it is counted."""
    environment.reset()
    if rows:
        environment.store.rows(bench_query("insert_soft_deleted_pairs"), users=rows // AGENTS)
    for name in ("vacuum_filled_tables", "checkpoint"):
        environment.store.execute(bench_query(name), alone=True)
    with environment.celery() as celery, _purge(environment, result) if result else nullcontext():
        return measure_product(environment, celery, load)[0]


@contextmanager
def _purge(environment: BenchEnvironment, result: PurgeResult) -> Iterator[None]:
    """Run `usage-worker run purge` during the block, and wait at its end until everything is purged."""
    started = time.monotonic()
    with subprocess.Popen(PURGE, env=environment.process_env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
            output, _ = process.communicate(timeout=PURGE_TIMEOUT_SECONDS)
        finally:
            process.kill()
        if process.returncode:
            raise ProcessError(f"purge exited with {process.returncode}")
    result.purged = json.loads(output)["purged"]
    result.purge_seconds = time.monotonic() - started
