"""The purge under load: what a million deleted rows that go cost those who count meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from usage_worker.bench.environment import open_environment
from usage_worker.bench.load import Load
from usage_worker.bench.paths import product
from usage_worker.bench.sql import query as bench_query
from usage_worker.errors import ProcessError
from usage_worker.store import purge_due
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.bench.environment import Environment

AGENTS = 10
AGE = timedelta(days=30)
PURGE = [sys.executable, "-m", "usage_worker.cli", "purge", "--json"]


@dataclass(slots=True)
class PurgeResult:
    """Uniform mix; from an event to its commit, without a purge and with one."""

    purged: int = 0
    purge_seconds: float = 0.0
    events_per_second: float = 0.0
    """The maximum, without a purge."""
    paced_per_second: float = 0.0
    quiet_p99_ms: float = 0.0
    visible_p50_ms: float = 0.0
    visible_p99_ms: float = 0.0
    paced_seconds: float = 0.0
    exact: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_purge(rows: int, events: int, pairs: int, share: float, echo: Callable[[str], None]) -> PurgeResult:
    """Count at a share of the maximum rate while so many rows are purged, until all are gone; check every total.

    Raises:
        ProcessError: a process failed, or did not end.
    """
    result = PurgeResult()
    with open_environment(pairs // AGENTS) as environment:
        seconds = _count(environment, Load(events, "uniform", 1, environment.users))
        result.events_per_second = events / seconds
        result.paced_per_second = rate = share * result.events_per_second
        echo(f"{result.events_per_second:,.0f} events a second at most; {rate:,.0f} from here on")
        _count(environment, Load(events // 3, "uniform", 2, environment.users, rate))
        result.quiet_p99_ms = environment.store.rows(testing_query("visible_latency"))[0]["p99"]
        echo(f"visible after p99 {result.quiet_p99_ms:,.0f} ms; now while {rows:,} rows are purged")
        load = Load(events, "uniform", 3, environment.users, rate)
        result.paced_seconds = _count(environment, load, rows, result)
        latency = environment.store.rows(testing_query("visible_latency"))[0]
        result.visible_p50_ms, result.visible_p99_ms = latency["p50"], latency["p99"]
        result.exact = not purge_due(environment.store, AGE).remaining and environment.is_exact([load])
    return result


def _count(environment: Environment, load: Load, rows: int = 0, result: PurgeResult | None = None) -> float:
    """Seconds until a load is counted, from zero; meanwhile so many rows are purged."""
    environment.reset()
    if rows:
        environment.store.rows(bench_query("bench_soft_delete"), users=rows // AGENTS)
    for name in ("bench_vacuum", "checkpoint"):
        environment.store.execute(bench_query(name), alone=True)
    with environment.stack() as stack, _purge(environment, result) if result else nullcontext():
        return product(environment.store, environment.servers, stack, load)[0]


@contextmanager
def _purge(environment: Environment, result: PurgeResult) -> Iterator[None]:
    """`usage-worker purge` meanwhile; it has purged everything when the block is left."""
    env = os.environ | {"DATABASE_URL": environment.servers.database_url, "REDIS_URL": environment.servers.redis_url}
    started = time.monotonic()
    with subprocess.Popen(PURGE, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
            output, _ = process.communicate(timeout=1800)
        finally:
            process.kill()
        if process.returncode:
            raise ProcessError(f"purge ended with {process.returncode}")
    result.purged = json.loads(output)["purged"]
    result.purge_seconds = time.monotonic() - started
