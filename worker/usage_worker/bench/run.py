"""One run of the benchmark: all paths and mixes on the same servers, with every total checked."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usage_worker.bench.bare_copy import measure_ceiling
from usage_worker.bench.environment import open_environment
from usage_worker.bench.load import AGENTS, Load
from usage_worker.bench.paths import measure_naive, measure_plain_copy_rollup, measure_product
from usage_worker.bench.result import BenchResult
from usage_worker.bench.sql import query as bench_query
from usage_worker.store.counters import COLUMNS
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.bench.cpu import CpuSeconds
    from usage_worker.bench.environment import BenchEnvironment
    from usage_worker.testing import Mix

MIXES: tuple[Mix, ...] = ("uniform", "production")


@dataclass(frozen=True, slots=True)
class BenchSize:
    """How much a run measures; each user has `AGENTS` agents."""

    events: int
    naive_events: int
    users: int
    paced_seconds: float


class BenchRun:
    """One run, and its result so far."""

    def __init__(self, environment: BenchEnvironment, size: BenchSize, echo: Callable[[str], None]) -> None:
        self._environment = environment
        self._store = environment.store
        self._size = size
        self._echo = echo
        self.result = BenchResult()

    def run(self) -> BenchResult:
        """Measure everything and return the result."""
        for mix in MIXES:
            self._compare(mix)
        self._measure_latency()
        self.result.machine = {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "postgresql": self._statistics()["version"].split(" on ")[0],
            "pairs": self._size.users * AGENTS,
        }
        return self.result

    def _compare(self, mix: Mix) -> None:
        size = self._size
        load = Load(size.events, mix, seed=1, users=size.users)
        seconds = {"naive": self._naive(mix) * size.events / size.naive_events}
        # Before and after the paths that are compared with them, since the pace of a shared machine changes.
        before = self._copies(load)
        seconds["product"] = self._product(mix, load)
        seconds["plain_copy_rollup"] = self._plain_copy_rollup(mix, load)
        after = self._copies(load)
        seconds |= {path: (before[path] + after[path]) / 2 for path in before}
        self.result.record_rates(mix, size.events, seconds)

    def _copies(self, load: Load) -> dict[str, float]:
        events, seconds = list(load.generate()), {}
        for path, prepared, source in (("prepared", True, "rows"), ("ceiling", False, "events")):
            self._environment.reset()
            self._echo(f"{load.mix}: bare COPY of {load.events:,} {source}")
            seconds[path] = measure_ceiling(self._store, events, prepared=prepared)
        return seconds

    def _naive(self, mix: Mix) -> float:
        load = Load(self._size.naive_events, mix, seed=1, users=self._size.users)
        self._environment.reset()
        self._echo(f"{mix}: {load.events:,} events, one Celery task each")
        return measure_naive(self._environment, load)

    def _plain_copy_rollup(self, mix: Mix, load: Load) -> float:
        self._environment.reset()
        self._echo(f"{mix}: {load.events:,} events, copied by the application and rolled up by SQL")
        seconds, cpu = measure_plain_copy_rollup(self._environment, load)
        self.result.plain_copy_rollup_cpu_seconds_per_1000_events[mix] = cpu.for_1000_of(load.events)
        self.result.exact &= self._environment.is_exact([load], COLUMNS["sums"])
        return seconds

    def _product(self, mix: Mix, load: Load) -> float:
        self._environment.reset()
        self._echo(f"{mix}: {load.events:,} events, from publisher to committed counters")
        before = self._statistics()
        with self._environment.celery() as celery:
            seconds, cpu, _ = measure_product(self._environment, celery, load)
        self._record_cost(mix, load, before, cpu)
        return seconds

    def _measure_latency(self) -> None:
        """Measure latency at half of the maximum rate, with the uniform mix, which is the slower one."""
        rate = self.result.events_per_second["product"]["uniform"] / 2
        events = int(rate * self._size.paced_seconds)
        load = Load(events, "uniform", seed=2, users=self._size.users, rate=rate)
        self._environment.reset()
        self._echo(f"uniform: {rate:,.0f} events/s for {self._size.paced_seconds:.0f} s, half of the maximum")
        with self._environment.celery() as celery:
            _, _, track = measure_product(self._environment, celery, load)
        self.result.track_p50_us, self.result.track_p99_us = track
        latency = self._store.rows(testing_query("visible_latency"))[0]
        self.result.visible_p50_ms, self.result.visible_p99_ms = latency["p50"], latency["p99"]
        self.result.exact &= self._environment.is_exact([load])

    def _record_cost(self, mix: Mix, load: Load, before: dict[str, Any], cpu: CpuSeconds) -> None:
        after = self._statistics()
        updates = after["updates"] - before["updates"]
        if mix == "uniform" and updates:
            self.result.hot_ratio = (after["hot_updates"] - before["hot_updates"]) / updates
        self.result.wal_bytes_per_event[mix] = float(after["wal_bytes"] - before["wal_bytes"]) / load.events
        self.result.cpu_seconds_per_1000_events[mix] = cpu.for_1000_of(load.events)
        self.result.exact &= self._environment.is_exact([load])

    def _statistics(self) -> dict[str, Any]:
        return self._store.rows(bench_query("server_statistics"))[0]


def run_bench(size: BenchSize, echo: Callable[[str], None]) -> BenchResult:
    """Start servers, measure every path with every mix, and stop the servers.

    Args:
        size: how much to measure.
        echo: receives one line for each step.

    Raises:
        ProcessError: a process failed, or not every event was counted in time.
    """
    with open_environment(size.users) as environment:
        return BenchRun(environment, size, echo).run()
