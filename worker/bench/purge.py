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

from worker.bench.ground import open_ground
from worker.bench.load import Load
from worker.bench.paths import product
from worker.errors import ProcessError
from worker.store import purge_due

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.bench.ground import Ground

AGENTS = 10
AGE = timedelta(days=30)
PURGE = [sys.executable, "-m", "worker.cli", "purge", "--json"]


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


def run_purge(rows: int, events: int, pairs: int, share: float, say: Callable[[str], None]) -> PurgeResult:
    """Count at a share of the maximum rate while so many rows are purged, until all are gone; check every total.

    Raises:
        ProcessError: a process failed, or did not end.
    """
    result = PurgeResult()
    with open_ground(pairs // AGENTS) as ground:
        seconds = _count(ground, Load(events, "uniform", 1, ground.users))
        result.events_per_second = events / seconds
        result.paced_per_second = rate = share * result.events_per_second
        say(f"{result.events_per_second:,.0f} events a second at most; {rate:,.0f} from here on")
        _count(ground, Load(events // 3, "uniform", 2, ground.users, rate))
        result.quiet_p99_ms = ground.store.rows("visible_latency")[0]["p99"]
        say(f"visible after p99 {result.quiet_p99_ms:,.0f} ms; now while {rows:,} rows are purged")
        load = Load(events, "uniform", 3, ground.users, rate)
        result.paced_seconds = _count(ground, load, rows, result)
        latency = ground.store.rows("visible_latency")[0]
        result.visible_p50_ms, result.visible_p99_ms = latency["p50"], latency["p99"]
        result.exact = not purge_due(ground.store, AGE).remaining and ground.is_exact([load])
    return result


def _count(ground: Ground, load: Load, rows: int = 0, result: PurgeResult | None = None) -> float:
    """Seconds until a load is counted, from zero; meanwhile so many rows are purged."""
    ground.reset()
    if rows:
        ground.store.rows("bench_doom", users=rows // AGENTS)
    for name in ("bench_settle", "checkpoint"):
        ground.store.execute(name, alone=True)
    with ground.stack() as stack, _purge(ground, result) if result else nullcontext():
        return product(ground.store, ground.servers, stack, load)[0]


@contextmanager
def _purge(ground: Ground, result: PurgeResult) -> Iterator[None]:
    """`usage-worker purge` meanwhile; it has purged everything when the block is left."""
    env = os.environ | {"DATABASE_URL": ground.servers.database_url, "REDIS_URL": ground.servers.redis_url}
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
