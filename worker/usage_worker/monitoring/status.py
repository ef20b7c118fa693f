"""The status of the system: backlog, workers, beat, partitions, quarantine and intake totals."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from usage_worker.maintenance import MANAGE_PARTITIONS, partition_coverage
from usage_worker.migrate import schema_version
from usage_worker.monitoring.quarantine import quarantine
from usage_worker.monitoring.stalls import stalls
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.store import last_runs

if TYPE_CHECKING:
    from celery.app.control import Control

    from usage_worker.maintenance import PartitionCoverage
    from usage_worker.monitoring.quarantine import Quarantine
    from usage_worker.monitoring.stalls import Stall
    from usage_worker.queue.stream import Backlog
    from usage_worker.service.resources import Resources
    from usage_worker.store import Intake, TaskRun

PING_SECONDS = 1.0
# Seconds. Three heartbeats are missing: beat is gone, or no worker executes what it sends.
BEAT_SILENCE = 30.0


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """The status at one moment; rates are events per second, measured over the second that collecting it takes.

    `redis_memory` is the share of Redis' `maxmemory` in use, 0 where there is no limit.
    """

    backlog: dict[int, Backlog]
    stalled: list[Stall]
    redis_memory: float
    workers: list[str]
    beat_seconds: float | None
    schema: str | None
    totals: Intake
    quarantine: Quarantine | None
    applied_per_second: float
    partitions: list[PartitionCoverage]
    last_runs: dict[str, TaskRun]
    """The last run of each periodic task, by its name."""

    @property
    def partitions_failed(self) -> dict[str, str]:
        """The partitions that the last run could not create or drop, with the reason."""
        run = self.last_runs.get(MANAGE_PARTITIONS)
        failed: dict[str, str] = run.report["failed"] if run else {}
        return failed

    @property
    def beat_alive(self) -> bool:
        """Whether beat sends, and some worker executes what it sends."""
        return self.beat_seconds is not None and self.beat_seconds < BEAT_SILENCE

    @property
    def partitions_healthy(self) -> bool:
        """Whether there are partitions for days ahead, and the last run succeeded."""
        return not self.partitions_failed and not any(table.is_short for table in self.partitions)

    @property
    def healthy(self) -> bool:
        """Whether workers and beat are alive, no shard is stalled and the coming days have their partitions."""
        return bool(self.workers) and self.beat_alive and not self.stalled and self.partitions_healthy

    def as_dict(self) -> dict[str, Any]:
        fields = {name: value for name, value in asdict(self).items() if name != "last_runs"}
        return fields | {
            "backlog": {str(shard): backlog._asdict() for shard, backlog in self.backlog.items()},
            "totals": self.totals._asdict(),
            "partitions": [asdict(table) | {"is_short": table.is_short} for table in self.partitions],
            "partitions_failed": self.partitions_failed,
            "beat_alive": self.beat_alive,
            "worker_alive": bool(self.workers),
            "partitions_healthy": self.partitions_healthy,
            "healthy": self.healthy,
        }


def collect_status(control: Control, resources: Resources) -> SystemStatus:
    """Ask Redis, the workers and PostgreSQL; it takes a second, in which workers may answer.

    Raises:
        StreamUnavailableError: Redis did not answer.
        StoreUnavailableError: PostgreSQL did not answer.
        SchemaError: the schema is missing or too old.
        MigrationError: PostgreSQL refused to show the journal of migrations.
        SettingsError: DATABASE_URL is missing, or its role lacks a right.
    """
    stream, store = resources.stream, resources.store
    backlog = {shard: stream.backlog(shard) for shard in range(stream.shards)}
    version = schema_version(resources.settings.require_database())
    before, started = store.intake_totals(), time.monotonic()
    workers = _answering(control)
    totals = store.intake_totals()
    return SystemStatus(
        backlog=backlog,
        stalled=stalls(stream, store, backlog, resources.settings.flush_interval),
        redis_memory=stream.memory_used(),
        workers=workers,
        beat_seconds=Heartbeat(stream.connection).age(),
        schema=version,
        totals=totals,
        quarantine=quarantine(store),
        applied_per_second=(totals.applied - before.applied) / (time.monotonic() - started),
        partitions=partition_coverage(store, resources.settings),
        last_runs=last_runs(store),
    )


def _answering(control: Control) -> list[str]:
    """Return the workers that answer: none if Redis is full, when the status is needed most."""
    with control.app.connection_for_read() as connection:
        try:
            replies = control.ping(timeout=PING_SECONDS)
        except (OperationalError, *connection.connection_errors, *connection.channel_errors):
            return []
    return sorted(name for reply in replies for name in reply)
