"""One run of the benchmark: every path and mix on the same servers, totals checked, ratios worked out."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from worker.bench.load import Load
from worker.bench.paths import Cost, ceiling, naive, product
from worker.demo.oracle import Expected
from worker.migrate import Runner
from worker.servers import Servers
from worker.settings import Settings
from worker.stack import Stack
from worker.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from worker.demo.workload import Mix

MIXES: tuple[Mix, ...] = ("uniform", "production")
SUMS = (
    *("usage_count", "message_count", "conversation_count", "success_count", "error_count", "total_tokens_used"),
    *("total_cost_usd", "response_time_total_ms", "response_time_samples"),
)


@dataclass(slots=True)
class BenchResult:
    """Rates in events per second; `ceiling` is a bare COPY, `naive` one Celery task an event."""

    events_per_second: dict[str, dict[str, float]] = field(
        default_factory=lambda: {path: {} for path in ("ceiling", "naive", "product")}
    )
    ratio_to_naive: dict[str, float] = field(default_factory=dict)
    ratio_to_copy: dict[str, float] = field(default_factory=dict)
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
    """The servers of a run and what it has measured so far."""

    def __init__(self, servers: Servers, store: Store, folder: Path, say: Callable[[str], None]) -> None:
        self._servers = servers
        self._store = store
        self._folder = folder
        self._say = say
        self.result = BenchResult()

    def run(self, size: Size) -> BenchResult:
        for mix in MIXES:
            self._compare(size, mix)
        self._pace(size)
        machine = self._store.rows("machine")[0]
        self.result.machine = {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "postgresql": machine["version"].split(" on ")[0],
            "pairs": size.users * 10,
        }
        return self.result

    def _compare(self, size: Size, mix: Mix) -> None:
        rates = self.result.events_per_second
        load = Load(size.events, mix, seed=1, users=size.users)
        self._reset()
        self._say(f"{mix}: bare COPY of {size.events:,} events")
        rates["ceiling"][mix] = size.events / ceiling(self._store, load)
        self._reset()
        small = Load(size.naive_events, mix, seed=1, users=size.users)
        self._say(f"{mix}: {size.naive_events:,} events, one Celery task each")
        rates["naive"][mix] = size.naive_events / naive(self._store, self._servers, small, self._folder / "naive.log")
        self._reset()
        self._say(f"{mix}: {size.events:,} events, publisher to committed counters")
        before = self._store.rows("machine")[0]
        with self._stack() as stack:
            seconds, cost = product(self._store, self._servers, stack, load)
        rates["product"][mix] = size.events / seconds
        self._account(mix, load, before, cost)
        self.result.ratio_to_naive[mix] = rates["product"][mix] / rates["naive"][mix]
        self.result.ratio_to_copy[mix] = rates["product"][mix] / rates["ceiling"][mix]

    def _pace(self, size: Size) -> None:
        """Latency at half of the maximum load, uniform mix, the harder one."""
        rate = self.result.events_per_second["product"]["uniform"] / 2
        load = Load(int(rate * size.paced_seconds), "uniform", seed=2, users=size.users, rate=rate)
        self._reset()
        self._say(f"uniform: {rate:,.0f} events/s for {size.paced_seconds:.0f} s, half of the maximum")
        with self._stack() as stack:
            product(self._store, self._servers, stack, load)
        latency = self._store.rows("visible_latency")[0]
        self.result.visible_p50_ms, self.result.visible_p99_ms = latency["p50"], latency["p99"]
        self.result.exact &= self._is_exact(load)

    def _account(self, mix: Mix, load: Load, before: dict[str, Any], cost: Cost) -> None:
        after = self._store.rows("machine")[0]
        updates = after["updates"] - before["updates"]
        if mix == "uniform" and updates:
            self.result.hot_ratio = (after["hot_updates"] - before["hot_updates"]) / updates
        self.result.wal_bytes_per_event[mix] = float(after["wal_bytes"] - before["wal_bytes"]) / load.events
        self.result.cpu_seconds_per_1000_events[mix] = {
            name: 1000 * seconds / load.events for name, seconds in asdict(cost).items()
        }
        self.result.exact &= self._is_exact(load)

    def _is_exact(self, load: Load) -> bool:
        expected = _expected(load)
        rows = [row for row in self._store.rows("counters") if row["usage_count"]]
        return (
            len(rows) == len(expected)
            and all(
                row[name] == getattr(expected[row["user_id"], row["agent_id"]], name) for row in rows for name in SUMS
            )
            and not self._store.rows("unbalanced")
        )

    def _reset(self) -> None:
        for name in ("reset_counts", "seed_pairs"):
            self._store.execute(name)
        self._store.execute("vacuum_pairs", alone=True)

    @contextmanager
    def _stack(self) -> Iterator[Stack]:
        urls = self._servers.database_url, self._servers.redis_url
        with Stack(*urls, flower_port=None, log_dir=self._folder) as stack:
            stack.wait_ready()
            yield stack


def run_bench(size: Size, say: Callable[[str], None]) -> BenchResult:
    """Start servers, run every path with every mix, stop everything.

    Raises:
        ProcessError: a process failed, or a path did not end.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="usage-bench-")))
        servers = stack.enter_context(Servers(Settings.model_construct()))
        Runner(servers.database_url).up()
        store = stack.enter_context(Store(servers.database_url))
        population = Load(0, "uniform", 0, size.users).population
        store.rows("seed_population", users=population.users, agents=population.agents)
        return Bench(servers, store, folder, say).run(size)


def _expected(load: Load) -> dict[tuple[UUID, UUID], Expected]:
    rows: defaultdict[tuple[UUID, UUID], Expected] = defaultdict(Expected)
    for event in load.fields():
        row = rows[event["user_id"], event["agent_id"]]
        row.usage_count += 1
        row.message_count += event["messages"]
        row.success_count += event["success"]
        row.error_count += not event["success"]
        row.total_tokens_used += event["input_tokens"] + event["output_tokens"]
        row.total_cost_usd += Decimal(event["cost_usd"])
        if event["response_time_ms"] is not None:
            row.response_time_total_ms += event["response_time_ms"]
            row.response_time_samples += 1
        row.conversations.add(event["conversation_id"])
    return rows
