"""One run of the benchmark: every path and mix on the same servers, totals checked, ratios worked out."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from usage_worker.bench.environment import open_environment
from usage_worker.bench.load import Load
from usage_worker.bench.paths import CpuSeconds, ceiling, naive, product
from usage_worker.bench.sql import query as bench_query
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.bench.environment import Environment
    from usage_worker.testing.workload import Mix

MIXES: tuple[Mix, ...] = ("uniform", "production")


@dataclass(slots=True)
class BenchResult:
    """Rates in events per second.

    `ceiling` is a bare COPY of the events, `prepared` one of rows made of them beforehand, `naive` one task an event.
    """

    events_per_second: dict[str, dict[str, float]] = field(
        default_factory=lambda: {path: {} for path in ("prepared", "ceiling", "naive", "product")}
    )
    ratio_to_naive: dict[str, float] = field(default_factory=dict)
    ratio_to_copy: dict[str, float] = field(default_factory=dict)
    ratio_to_prepared_copy: dict[str, float] = field(default_factory=dict)
    visible_p50_ms: float = 0.0
    visible_p99_ms: float = 0.0
    hot_ratio: float = 0.0
    wal_bytes_per_event: dict[str, float] = field(default_factory=dict)
    cpu_seconds_per_1000_events: dict[str, dict[str, float]] = field(default_factory=dict)
    exact: bool = True
    machine: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; `users` have ten agents each."""

    events: int
    naive_events: int
    users: int
    paced_seconds: float


class Bench:
    """What one run has measured so far."""

    def __init__(self, environment: Environment, size: Size, echo: Callable[[str], None]) -> None:
        self._ground = environment
        self._store = environment.store
        self._size = size
        self._echo = echo
        self.result = BenchResult()

    def run(self) -> BenchResult:
        for mix in MIXES:
            self._compare(mix)
        self._pace()
        self.result.machine = {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "postgresql": self._machine()["version"].split(" on ")[0],
            "pairs": self._size.users * 10,
        }
        return self.result

    def _compare(self, mix: Mix) -> None:
        size = self._size
        load = Load(size.events, mix, seed=1, users=size.users)
        seconds = {"naive": self._naive(mix) * size.events / size.naive_events}
        # Before and after, since other tenants of the machine come and go.
        before = self._copies(load)
        seconds["product"] = self._product(mix, load)
        after = self._copies(load)
        seconds |= {path: (before[path] + after[path]) / 2 for path in before}
        for path, by_mix in self.result.events_per_second.items():
            by_mix[mix] = size.events / seconds[path]
        rates = {path: by_mix[mix] for path, by_mix in self.result.events_per_second.items()}
        self.result.ratio_to_naive[mix] = rates["product"] / rates["naive"]
        self.result.ratio_to_copy[mix] = rates["product"] / rates["ceiling"]
        self.result.ratio_to_prepared_copy[mix] = rates["product"] / rates["prepared"]

    def _copies(self, load: Load) -> dict[str, float]:
        events, seconds = list(load.fields()), {}
        for path, prepared, what in (("prepared", True, "rows"), ("ceiling", False, "events")):
            self._ground.reset()
            self._echo(f"{load.mix}: bare COPY of {load.events:,} {what}")
            seconds[path] = ceiling(self._store, events, prepared=prepared)
        return seconds

    def _naive(self, mix: Mix) -> float:
        load = Load(self._size.naive_events, mix, seed=1, users=self._size.users)
        self._ground.reset()
        self._echo(f"{mix}: {load.events:,} events, one Celery task each")
        return naive(self._store, self._ground.servers, load, self._ground.folder / "naive.log")

    def _product(self, mix: Mix, load: Load) -> float:
        self._ground.reset()
        self._echo(f"{mix}: {load.events:,} events, publisher to committed counters")
        before = self._machine()
        with self._ground.stack() as stack:
            seconds, cost = product(self._store, self._ground.servers, stack, load)
        self._account(mix, load, before, cost)
        return seconds

    def _pace(self) -> None:
        """Latency at half of the maximum load, uniform mix, the harder one."""
        rate = self.result.events_per_second["product"]["uniform"] / 2
        events = int(rate * self._size.paced_seconds)
        load = Load(events, "uniform", seed=2, users=self._size.users, rate=rate)
        self._ground.reset()
        self._echo(f"uniform: {rate:,.0f} events/s for {self._size.paced_seconds:.0f} s, half of the maximum")
        with self._ground.stack() as stack:
            product(self._store, self._ground.servers, stack, load)
        latency = self._store.rows(testing_query("visible_latency"))[0]
        self.result.visible_p50_ms, self.result.visible_p99_ms = latency["p50"], latency["p99"]
        self.result.exact &= self._ground.is_exact([load])

    def _account(self, mix: Mix, load: Load, before: dict[str, Any], cost: CpuSeconds) -> None:
        after = self._machine()
        updates = after["updates"] - before["updates"]
        if mix == "uniform" and updates:
            self.result.hot_ratio = (after["hot_updates"] - before["hot_updates"]) / updates
        self.result.wal_bytes_per_event[mix] = float(after["wal_bytes"] - before["wal_bytes"]) / load.events
        self.result.cpu_seconds_per_1000_events[mix] = {
            name: 1000 * seconds / load.events for name, seconds in asdict(cost).items()
        }
        self.result.exact &= self._ground.is_exact([load])

    def _machine(self) -> dict[str, Any]:
        return self._store.rows(bench_query("machine"))[0]


def run_bench(size: Size, echo: Callable[[str], None]) -> BenchResult:
    """Start servers, run every path with every mix, stop everything.

    Raises:
        ProcessError: a process failed, or a path did not end.
    """
    with open_environment(size.users) as environment:
        return Bench(environment, size, echo).run()
