"""Ingest without Celery: the code that the task calls, on real servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.erasure import FORGET_KEY
from tests.integration.commands import Cli
from tests.integration.users import Users, add_users
from tests.sql import query
from usage_worker.migrate import Runner
from usage_worker.publisher import UsagePublisher
from usage_worker.service.resources import Resources
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.intake import Intake
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    import redis

    from usage_worker.ingest import FlushReport


@dataclass
class IngestHarness:
    """Resources, users and agents for ingest without Celery, and the oracle that knows the expected totals.

    `resources` have the owner's rights, `worker` those of a login role that has nothing but `usage_ingest`.
    """

    resources: Resources
    worker: Resources
    redis: redis.Redis
    users: list[UUID]
    agents: list[UUID]
    oracle: Oracle

    def publish(self, *events: dict[str, Any], counted: bool = True) -> None:
        """Send the events through a publisher, and add them to the oracle if they are to be counted."""
        with UsagePublisher(self.resources.settings.redis_url, linger=0) as publisher:
            for event in events:
                assert publisher.add(dict(event)) is not None
                if counted:
                    self.oracle.add(event)
            assert publisher.flush()

    def xadd(self, body: bytes | str, version: str = "1", shard: int = 0, **fields: str) -> str:
        """Add an entry as a producer in another language does, and return its ID."""
        entry = {"v": version, "events": body, **fields}
        return self.redis.xadd(f"usage:events:{{{shard}}}", entry).decode()  # type: ignore[arg-type, union-attr]

    def flush(self) -> Intake:
        """Flush all shards and return the sum of their intake."""
        return sum((self.flush_shard(shard).intake for shard in range(self.resources.stream.shards)), Intake())

    def flush_shard(self, shard: int) -> FlushReport:
        return self.worker.flusher.flush(shard, 60)

    def check(self) -> None:
        """Assert that all counters equal the oracle, the intake totals are balanced, and no entry waits."""
        assert self.oracle.differences(self.resources.store.rows(testing_query("counters"))) == []
        assert self.resources.store.rows(testing_query("unbalanced")) == []
        for shard in range(self.resources.stream.shards):
            backlog = self.resources.stream.backlog(shard)
            assert (backlog.entries, backlog.pending) == (0, 0)

    def dead_letters(self) -> list[dict[str, Any]]:
        return self.resources.store.rows(query("dead_letters"))


@pytest.fixture
def make_resources(ingest_url: str, redis_worker_url: str) -> Iterator[Callable[..., Resources]]:
    """Return a function that makes the resources of another worker, with changed settings."""
    opened: list[Resources] = []

    def make(*, reclaim_idle: float = 15.0, **settings: Any) -> Resources:
        made = Settings(**{"DATABASE_URL": ingest_url, "REDIS_URL": redis_worker_url} | settings)
        # May be less than workers accept, so that entries are reclaimed at once.
        opened.append(Resources(made.model_copy(update={"reclaim_idle": reclaim_idle})))
        return opened[-1]

    yield make
    for resources in opened:
        resources.close()


@pytest.fixture
def harness(
    make_resources: Callable[..., Resources], redis_client: redis.Redis, database: str, monkeypatch: pytest.MonkeyPatch
) -> IngestHarness:
    # Each user's totals in a statement of their own: when one fails, others have been applied, as in a large batch.
    monkeypatch.setattr("usage_worker.ingest.apply._APPLY_ROWS", 1)
    resources = make_resources(DATABASE_URL=database)
    population = Population.of(20, 5)
    resources.store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
    return IngestHarness(resources, make_resources(), redis_client, population.users, population.agents, Oracle())


@pytest.fixture
def users(database: str) -> Users:
    return add_users(database)


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    with Store(database) as store:
        yield store


@pytest.fixture
def cli(tmp_path: Path, database: str, redis_url: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)


@pytest.fixture
def forgetter(cli: Cli) -> Cli:
    cli.env["USAGE_FORGET_KEY"] = FORGET_KEY
    return cli


@pytest.fixture
def unknown_are_created(cli: Cli) -> None:
    """Let the commands create the unknown users and agents of events."""
    cli.env["USAGE_UNKNOWN"] = "create"


@pytest.fixture
def runner(empty_database: str, files: Path) -> Runner:
    """Return the runner of a database at 3.0.0, with the migrations that the test's module gives as `files`."""
    runner = Runner(empty_database, files)
    runner.up("3.0.0")
    return runner
