"""One inspection: the connections that its sections ask, and the figures that they find."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from usage_worker.migrate import version_key
from usage_worker.queue.server_details import server_details
from usage_worker.queue.stream import EventStream
from usage_worker.store.impatient_stores import ImpatientStore
from usage_worker.store.task_runs import last_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.maintenance.partitions import PartitionCoverage
    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.quarantine import Quarantine
    from usage_worker.queue.flush_counters import FlushCounters
    from usage_worker.queue.flush_record import FlushRecord
    from usage_worker.queue.processes import ProcessRecord
    from usage_worker.queue.server_details import ServerDetails
    from usage_worker.queue.stream import Backlog
    from usage_worker.settings import Settings
    from usage_worker.store.intake import Intake
    from usage_worker.store.servers import Server
    from usage_worker.store.task_runs import TaskRun

# The checks that every other one of a server needs.
REDIS = "redis"
BROKER = "broker"
POSTGRESQL = "postgresql"


class Node(NamedTuple):
    """A worker: the shards of which it has counted events in the last ten minutes, how many, and its last record."""

    name: str
    host: str
    version: str
    shards: list[int]
    events: int
    seconds: float


@dataclass(slots=True)
class Figures:
    """What the sections found; None where it is unknown.

    `redis_memory` is the share of Redis' `maxmemory` in use, 0 where there is no limit. `clocks` has the seconds by
    which each clock is ahead of that of this process.
    """

    redis_memory: float | None = None
    processes: list[ProcessRecord] | None = None
    beat_seconds: float | None = None
    """Since the last heartbeat."""
    beat_at: float | None = None
    """When the last heartbeat was, in seconds since 1970 by the clock of this process."""
    shards: int | None = None
    """The workers' number of shards, or that of this process where no worker is known."""
    backlog: dict[int, Backlog] | None = None
    flushes: dict[int, FlushRecord] | None = None
    counters: dict[int, FlushCounters] | None = None
    is_waiting: bool = False
    """Whether the oldest entry of a shard waits too long."""
    vanished: dict[int, int] | None = None
    """The entries of each shard that left it uncounted."""
    foreign_shards: dict[int, int] | None = None
    """The entries of each shard beyond the workers' number."""
    server: Server | None = None
    """The PostgreSQL server that is in use."""
    servers: dict[str, str | None] | None = None
    """Each server by its place, where DATABASE_URL names several; None for one that does not answer."""
    schema: str | None = None
    totals: Intake | None = None
    quarantine: Quarantine | None = None
    partitions: list[PartitionCoverage] | None = None
    last_runs: dict[str, TaskRun] | None = None
    """The last run of each periodic task, by its name."""
    alerts: list[dict[str, Any]] | None = None
    """Kind, number and text of the anomalies that go on and alert."""
    embeddings: dict[str, Any] | None = None
    """The report of the last run of the embedder's task, if an embedder is set."""
    clocks: dict[str, float] = field(default_factory=dict)

    @property
    def alive(self) -> list[ProcessRecord]:
        """The processes whose record is recent."""
        return [record for record in self.processes or [] if record.is_alive]

    @property
    def workers(self) -> list[str]:
        """The names of the workers that are alive."""
        return [record.name for record in self.alive if record.process.kind == "worker"]

    @property
    def nodes(self) -> list[Node]:
        """The workers that are alive, and what each has counted lately."""
        flushes = self.flushes or {}
        return [
            Node(
                it.name,
                it.process.host,
                it.process.version,
                [shard for shard, flush in flushes.items() if it.name in flush.by_node],
                sum(flush.by_node.get(it.name, 0) for flush in flushes.values()),
                it.seconds,
            )
            for it in self.alive
            if it.process.kind == "worker"
        ]

    def has_schema(self, version: str) -> bool:
        """Return whether the schema is of this version or a newer one; False where it is unknown."""
        return self.schema is not None and version_key(self.schema) >= version_key(version)

    @property
    def accepted_per_second(self) -> float | None:
        """Events that were counted or quarantined, averaged over the last one to two minutes."""
        return None if self.flushes is None else sum(record.per_second for record in self.flushes.values())


class Inspection:
    """The connections of one inspection and what it has found so far; a context manager.

    `keeps` is whether it notes in Redis, as the heartbeat does, how many entries have vanished.
    """

    def __init__(self, settings: Settings, *, keeps: bool = True) -> None:
        self.settings = settings
        self.keeps = keeps
        self.figures = Figures()

    @cached_property
    def stream(self) -> EventStream:
        return EventStream.of(self.settings)

    @cached_property
    def store(self) -> ImpatientStore:
        return ImpatientStore.of(self.settings)

    @property
    def is_broker(self) -> bool:
        """Whether Celery's messages are on the server of the streams; a Cluster cannot have them."""
        return not self.settings.has_own_broker and self.stream.connection.kind != "cluster"

    @cached_property
    def redis_details(self) -> dict[str, ServerDetails]:
        """What each server says about its memory and disk, by its name; asked by the first section that needs it."""
        connection = self.stream.connection
        return {name: server_details(connection, name) for name in connection.servers()}

    @cached_property
    def last_runs(self) -> dict[str, TaskRun]:
        """The last run of each periodic task, by its name; asked by the first section that needs it."""
        self.figures.last_runs = runs = last_runs(self.store)
        return runs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("stream", "store"):
            if opened := self.__dict__.pop(name, None):
                opened.close()


class Section(NamedTuple):
    """A part of the inspection that stands alone.

    `ask` sets figures and yields the problems it finds, under the names in `checks`; where it raises, the first of them
    fails. `needs` are the checks of other sections without which it cannot ask. An `optional` section asks what a
    managed server may not tell: where it raises, its checks are unknown.
    """

    checks: tuple[str, ...]
    ask: Callable[[Inspection], Iterator[Check]]
    needs: tuple[str, ...] = ()
    optional: bool = False
