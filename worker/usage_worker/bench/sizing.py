"""What a steady rate costs by event: processor time, WAL, disk, and Redis' memory while PostgreSQL is down."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from usage_worker.bench.cpu import CpuSeconds
from usage_worker.bench.environment import open_environment
from usage_worker.bench.load import AGENTS, Load
from usage_worker.bench.paths import measure_product
from usage_worker.bench.sender import sender_process
from usage_worker.bench.sql import query as bench_query
from usage_worker.queue.stream import EventStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.bench.environment import BenchEnvironment
    from usage_worker.local.supervisor import Supervisor

DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600
# As long as the ledger keeps an event by default.
LEDGER_DAYS = 90
EVENTS_A_DAY = (100_000, 1_000_000, 10_000_000, 100_000_000)
# Long enough for two heartbeats and ticks of beat.
IDLE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a number of events a day needs, at their mean rate.

    Attributes:
        cores: processors in use, of worker, Valkey and PostgreSQL, what they take when idle included.
        wal_bytes_a_day: written by PostgreSQL.
        ledger_bytes: of 90 days with indexes.
        redis_bytes_an_hour: what waits in the streams after an hour without PostgreSQL.
    """

    cores: float
    wal_bytes_a_day: float
    ledger_bytes: float
    redis_bytes_an_hour: float


@dataclass(slots=True)
class SizingResult:
    """What a steady rate of the production mix cost.

    Attributes:
        rate: events per second.
        pairs: rows in user_agents.
        idle_cores: processors in use without events, by process.
        cpu_us_per_event: microseconds by process, less what it takes when idle; of the publisher, too.
        wal_bytes_per_event: of PostgreSQL.
        ledger_bytes_per_event: of the ledger with its indexes.
        redis_bytes_per_event: of the streams while nobody reads them.
        exact: whether every total was right.
    """

    rate: float
    pairs: int
    idle_cores: dict[str, float] = field(default_factory=dict)
    cpu_us_per_event: dict[str, float] = field(default_factory=dict)
    wal_bytes_per_event: float = 0.0
    ledger_bytes_per_event: float = 0.0
    redis_bytes_per_event: float = 0.0
    exact: bool = True

    def needs(self, events_a_day: int) -> Needs:
        """Return what so many events a day need. The publisher's part is the application's."""
        rate = events_a_day / DAY_SECONDS
        busy = sum(cost for process, cost in self.cpu_us_per_event.items() if process != "publisher") / 1e6
        return Needs(
            sum(self.idle_cores.values()) + busy * rate,
            self.wal_bytes_per_event * events_a_day,
            self.ledger_bytes_per_event * events_a_day * LEDGER_DAYS,
            self.redis_bytes_per_event * rate * HOUR_SECONDS,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return asdict(self) | {"needs": {str(number): asdict(self.needs(number)) for number in EVENTS_A_DAY}}


def run_sizing(rate: float, seconds: float, pairs: int, echo: Callable[[str], None]) -> SizingResult:
    """Measure idle processes, then the rate for some time, then the same with nobody who counts.

    Raises:
        ProcessError: a process failed, or not every event was counted in time.
    """
    with open_environment(pairs // AGENTS) as environment:
        environment.reset()
        result = SizingResult(rate, environment.users * AGENTS)
        load = Load(int(rate * seconds), "production", 1, environment.users, rate)
        with environment.celery() as celery:
            result.idle_cores = _idle_cores(environment, celery, min(seconds, IDLE_SECONDS), echo)
            echo(f"{rate:,.0f} events/s for {seconds:.0f} s")
            _measure_rate(environment, result, load, lambda: measure_product(environment, celery, load))
        echo(f"{rate:,.0f} events/s for {seconds:.0f} s, and nobody counts them")
        result.redis_bytes_per_event = _waiting_bytes(environment, load)
    return result


def _idle_cores(
    environment: BenchEnvironment, celery: Supervisor, seconds: float, echo: Callable[[str], None]
) -> dict[str, float]:
    echo(f"idle for {seconds:.0f} s")
    before = CpuSeconds.read(os.getpid(), environment.servers, celery)
    time.sleep(seconds)
    idle = CpuSeconds.read(os.getpid(), environment.servers, celery) - before
    return {name: cost / seconds for name, cost in asdict(idle).items() if name != "publisher"}


def _measure_rate(
    environment: BenchEnvironment,
    result: SizingResult,
    load: Load,
    measure: Callable[[], tuple[float, CpuSeconds, list[float]]],
) -> None:
    before = environment.store.rows(bench_query("server_statistics"))[0]
    seconds, cpu, _ = measure()
    after = environment.store.rows(bench_query("server_statistics"))[0]
    result.cpu_us_per_event = {
        name: 1e6 * (cost - result.idle_cores.get(name, 0.0) * seconds) / load.events
        for name, cost in asdict(cpu).items()
    }
    result.wal_bytes_per_event = float(after["wal_bytes"] - before["wal_bytes"]) / load.events
    ledger = environment.store.rows(bench_query("ledger_size"))[0]["bytes"]
    result.ledger_bytes_per_event = float(ledger) / load.events
    result.exact = environment.is_exact([load])


def _waiting_bytes(environment: BenchEnvironment, load: Load) -> float:
    """Return what an event takes in the streams, as the publisher packs them at this rate."""
    stream = EventStream(environment.servers.redis_url, 2)
    try:
        with sender_process("usage_worker.bench.publish", load, environment.process_env) as publisher:
            before = _used_memory(stream)
            publisher.start()
            publisher.check_done()
        return (_used_memory(stream) - before) / load.events
    finally:
        stream.close()


def _used_memory(stream: EventStream) -> int:
    """Return the bytes of Redis' data, without what belongs to connections."""
    with stream.connection.server("") as client:
        info: Any = client.info("memory")
        return int(info["used_memory_dataset"])
