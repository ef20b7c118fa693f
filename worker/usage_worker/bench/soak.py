"""The long run: whether a worker's memory stays constant, and what ten times as many pairs cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from usage_worker.bench.environment import open_environment
from usage_worker.bench.load import AGENTS, Load
from usage_worker.bench.meter import resident_bytes
from usage_worker.bench.paths import measure_product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.bench.environment import BenchEnvironment
    from usage_worker.local.supervisor import Supervisor

# As many as a publisher process can hold in memory before it starts.
ROUND_EVENTS = 500_000
SMALL_ROUNDS = 2


@dataclass(slots=True)
class SoakResult:
    """What the long run measured, with the uniform mix; lists have one figure per round.

    Attributes:
        events: counted with the greater number of pairs.
        pairs: the smaller and the greater number of pairs.
        events_per_second: of the rounds with the smaller, then of those with the greater number of pairs.
        worker_mib: resident memory of the largest worker process after each round with the greater number of pairs.
        speed_kept: the speed with the greater number of pairs as a share of that with the smaller one.
        memory_growth: a worker's memory after the last round as a multiple of that after the first.
        exact: whether every total was right.
    """

    events: int = 0
    pairs: list[int] = field(default_factory=list)
    events_per_second: list[list[float]] = field(default_factory=list)
    worker_mib: list[float] = field(default_factory=list)
    speed_kept: float = 0.0
    memory_growth: float = 0.0
    exact: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return asdict(self)


def run_soak(events: int, few: int, many: int, echo: Callable[[str], None]) -> SoakResult:
    """Count two rounds with `few` pairs, then `events` events in rounds with `many`; check every total.

    Raises:
        ProcessError: a process failed, or a round was not counted in time.
    """
    size = min(events, ROUND_EVENTS)
    result = SoakResult(size * (events // size), [few, many])
    for pairs, rounds in ((few, SMALL_ROUNDS), (many, events // size)):
        echo(f"{pairs:,} pairs: filling the table")
        with open_environment(pairs // AGENTS) as environment:
            environment.reset()
            loads = [Load(size, "uniform", seed, environment.users) for seed in range(rounds)]
            with environment.celery() as celery:
                measured = [_measure_round(environment, celery, load, echo) for load in loads]
            result.exact &= environment.is_exact(_each_shown(loads, f"{pairs:,} pairs: checking every total", echo))
        result.events_per_second.append([rate for rate, _ in measured])
        result.worker_mib = [memory for _, memory in measured]
    slow, fast = (median(rates) for rates in reversed(result.events_per_second))
    result.speed_kept = slow / fast
    result.memory_growth = result.worker_mib[-1] / result.worker_mib[0]
    return result


def _each_shown(loads: list[Load], what: str, echo: Callable[[str], None]) -> Iterator[Load]:
    """Yield the loads, and say which is next: adding one up takes as long as counting it."""
    for number, load in enumerate(loads, 1):
        echo(f"{what}, round {number} of {len(loads)}")
        yield load


def _measure_round(
    environment: BenchEnvironment, celery: Supervisor, load: Load, echo: Callable[[str], None]
) -> tuple[float, float]:
    """Return events per second, and the memory of the largest worker process in MiB."""
    seconds, *_ = measure_product(environment, celery, load)
    memory = max(resident_bytes(celery.pids["worker1"])) / 2**20
    echo(f"{load.events:,} events, {load.events / seconds:,.0f} per second, worker memory {memory:.0f} MiB")
    return load.events / seconds, memory
