"""The CPU time that a path of the benchmark takes, by process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from usage_worker.bench.meter import cpu_seconds

if TYPE_CHECKING:
    from usage_worker.local.servers import Servers
    from usage_worker.local.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """CPU seconds of each process that has a part in a path, those of its child processes included.

    Attributes:
        publisher: the process that has the events, as an application would.
        worker: the Celery workers that count; without beat and the worker for maintenance.
        valkey: the queue.
        database: PostgreSQL.
    """

    publisher: float
    worker: float
    valkey: float
    database: float

    @classmethod
    def read(cls, publisher: int, servers: Servers, celery: Supervisor | None) -> Self:
        """Read what the processes took until now.

        Args:
            publisher: the number of that process.
            servers: PostgreSQL and Valkey.
            celery: the workers; None for a path without a queue, on which Valkey is idle.
        """
        workers = [pid for name, pid in celery.pids.items() if name.startswith("worker")] if celery else []
        queue = [servers.pids["Valkey"] or 0] if celery else []
        return cls(
            publisher=cpu_seconds(publisher),
            worker=sum(map(cpu_seconds, workers)),
            valkey=sum(map(cpu_seconds, queue)),
            database=cpu_seconds(servers.pids["PostgreSQL"] or 0),
        )

    def __sub__(self, before: Self) -> Self:
        mine, theirs = asdict(self), asdict(before)
        return type(self)(**{process: mine[process] - theirs[process] for process in mine})

    def for_1000_of(self, events: int) -> dict[str, float]:
        """Return the CPU seconds for 1,000 of so many events, by process and in all."""
        parts = {process: 1000 * seconds / events for process, seconds in asdict(self).items()}
        return parts | {"total": sum(parts.values())}
