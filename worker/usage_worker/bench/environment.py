"""The servers that a benchmark runs on: embedded, migrated, with users and agents; and the check of its totals."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from usage_worker.bench.load import Load
from usage_worker.bench.sql import query as bench_query
from usage_worker.local.isolated_servers import isolated_servers
from usage_worker.local.supervisor import Supervisor
from usage_worker.migrate import Runner
from usage_worker.store.connection import Store
from usage_worker.store.counters import COLUMNS
from usage_worker.testing import ExpectedCounters
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from uuid import UUID

    from usage_worker.local.servers import Servers


class BenchEnvironment:
    """Running servers with `users` users, who have `AGENTS` agents each; logs go to `folder`."""

    def __init__(self, servers: Servers, store: Store, folder: Path, users: int) -> None:
        self.servers = servers
        self.store = store
        self.folder = folder
        self.users = users

    @property
    def process_env(self) -> dict[str, str]:
        """The environment variables of a process that uses these servers."""
        redis = dict.fromkeys(("USAGE_REDIS_URL", "USAGE_BROKER_URL"), self.servers.redis_url)
        return os.environ | {"DATABASE_URL": self.servers.database_url} | redis

    def reset(self) -> None:
        """Give every pair a row whose counters are 0."""
        for name in ("truncate_counters", "insert_pairs"):
            self.store.execute(bench_query(name))
        self.store.execute(bench_query("vacuum_pairs"), alone=True)

    @contextmanager
    def celery(self) -> Iterator[Supervisor]:
        """Run beat and one Celery worker, ready to count."""
        urls = self.servers.database_url, self.servers.redis_url
        with Supervisor(*urls, flower_port=None, log_dir=self.folder) as celery:
            celery.wait_ready()
            yield celery

    def is_exact(self, loads: Iterable[Load], counters: Sequence[str] = COLUMNS["counters"]) -> bool:
        """Return whether these counters and the daily totals are what the loads add up to, for every pair."""
        expected = _expected(loads)
        rows = [row for row in self.store.rows(testing_query("counters")) if row["usage_count"]]
        return (
            len(rows) == len(expected)
            and all(
                row[column] == getattr(expected[row["user_id"], row["agent_id"]], column)
                for row in rows
                for column in counters  # times and scores depend on when events are counted
            )
            and not self.store.rows(testing_query("unbalanced"))
        )


@contextmanager
def open_environment(users: int) -> Iterator[BenchEnvironment]:
    """Start servers with the newest schema, and stop them at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="usage-bench-")))
        servers = stack.enter_context(isolated_servers())
        Runner(servers.database_url).up()
        store = stack.enter_context(Store(servers.database_url))
        population = Load(0, "uniform", 0, users).population
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        yield BenchEnvironment(servers, store, folder, users)


def _expected(loads: Iterable[Load]) -> dict[tuple[UUID, UUID], ExpectedCounters]:
    rows: defaultdict[tuple[UUID, UUID], ExpectedCounters] = defaultdict(ExpectedCounters)
    for load in loads:
        for event in load.generate():
            rows[event["user_id"], event["agent_id"]].add_usage(event)
    return rows
