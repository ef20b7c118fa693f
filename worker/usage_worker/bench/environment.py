"""Where a benchmark runs: its own servers with so many users, rows that count from zero, and a check of every total."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from usage_worker.bench.load import Load
from usage_worker.bench.sql import query as bench_query
from usage_worker.local.servers import Servers
from usage_worker.local.supervisor import Supervisor
from usage_worker.migrate import Runner
from usage_worker.settings import Settings
from usage_worker.store import Store
from usage_worker.testing.oracle import Expected
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

SUMS = (
    *("usage_count", "message_count", "conversation_count", "success_count", "error_count", "total_tokens_used"),
    *("total_cost_usd", "response_time_total_ms", "response_time_samples"),
)


class Environment:
    """Servers that are running, with users who have ten agents each."""

    def __init__(self, servers: Servers, store: Store, folder: Path, users: int) -> None:
        self.servers = servers
        self.store = store
        self.folder = folder
        self.users = users

    def reset(self) -> None:
        """Every pair has a row that has counted nothing."""
        for name in ("reset_counts", "seed_pairs"):
            self.store.execute(bench_query(name))
        self.store.execute(bench_query("vacuum_pairs"), alone=True)

    @contextmanager
    def stack(self) -> Iterator[Supervisor]:
        """Beat and one Celery worker with two processes, ready to work."""
        urls = self.servers.database_url, self.servers.redis_url
        with Supervisor(*urls, flower_port=None, log_dir=self.folder) as stack:
            stack.wait_ready()
            yield stack

    def is_exact(self, loads: list[Load]) -> bool:
        """Whether every counter says what the loads add up to, and the roll-up says the same."""
        expected = _expected(loads)
        rows = [row for row in self.store.rows(testing_query("counters")) if row["usage_count"]]
        return (
            len(rows) == len(expected)
            and all(
                row[name] == getattr(expected[row["user_id"], row["agent_id"]], name) for row in rows for name in SUMS
            )
            and not self.store.rows(testing_query("unbalanced"))
        )


@contextmanager
def open_environment(users: int) -> Iterator[Environment]:
    """Start servers with the newest schema and stop them afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="usage-bench-")))
        servers = stack.enter_context(Servers(Settings.model_construct()))
        Runner(servers.database_url).up()
        store = stack.enter_context(Store(servers.database_url))
        population = Load(0, "uniform", 0, users).population
        store.rows(testing_query("seed_population"), users=population.users, agents=population.agents)
        yield Environment(servers, store, folder, users)


def _expected(loads: list[Load]) -> dict[tuple[UUID, UUID], Expected]:
    rows: defaultdict[tuple[UUID, UUID], Expected] = defaultdict(Expected)
    for load in loads:
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
