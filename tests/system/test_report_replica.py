"""Reports and comparisons read from a standby: behind, cancelled by replication, away; what is written is not."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.integration.commands import SECRET, Cli
from tests.integration.service import serving
from tests.standby import SETTINGS, configure, copy_of, has_caught_up
from tests.system.pages import answers, opened, text_of
from usage_worker.errors import RecoveryConflictError
from usage_worker.local import EmbeddedPostgres
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import Runner
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.reconcile import FIRST_PAIR, counter_differences
from usage_worker.store.task_runs import last_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Valkey

DATABASE = "usage"
DELAY = "max_standby_streaming_delay"


class Servers:
    """A primary, and a standby of it for reports."""

    def __init__(self, primary: EmbeddedPostgres, replica: EmbeddedPostgres, redis_url: str) -> None:
        self.primary, self.replica = primary, replica
        url = replica.url(DATABASE).replace("postgres@", f"postgres:{SECRET}@")
        self.fields = {"DATABASE_URL": primary.url(DATABASE), "report_database_url": url}
        self.settings = Settings(REDIS_URL=redis_url, **self.fields)
        self.env = {
            "DATABASE_URL": primary.url(DATABASE),
            "USAGE_REPORT_DATABASE_URL": url,
            "USAGE_REDIS_URL": redis_url,
        }

    def on_primary(self, statement: str) -> None:
        with psycopg.connect(self.primary.url(DATABASE), autocommit=True) as connection:
            connection.execute(statement.encode())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the replica fall behind during the block."""
        self._replay("SELECT pg_wal_replay_pause()")
        try:
            yield
        finally:
            self._replay("SELECT pg_wal_replay_resume()")
        eventually(lambda: has_caught_up(self.primary), 30)

    @contextmanager
    def locked_once_it_sleeps(self) -> Iterator[None]:
        """Lock a table on the primary as soon as a query of the block sleeps on the replica."""
        with ThreadPoolExecutor(1) as pool:
            locked = pool.submit(self._lock_once_it_sleeps)
            yield
            locked.result()

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Let the replica cancel at once, during the block, what stands in the way of replication."""
        configure(self.replica, DELAY, "0")
        try:
            yield
        finally:
            configure(self.replica, DELAY, "30s")

    def _lock_once_it_sleeps(self) -> None:
        sleeping = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        with psycopg.connect(self.replica.url(DATABASE), autocommit=True) as connection:
            eventually(lambda: connection.execute(sleeping).rowcount, 30)
        self.on_primary("BEGIN; LOCK TABLE usage_daily IN ACCESS EXCLUSIVE MODE; COMMIT")

    def _replay(self, statement: str) -> None:
        with psycopg.connect(self.replica.url(DATABASE), autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="module")
def servers(module_folder: Path, valkey: Valkey) -> Iterator[Servers]:
    with EmbeddedPostgres(module_folder / "primary", SETTINGS) as primary:
        database = primary.ensure_database(DATABASE)
        Runner(database).up()
        with closing(Harness(database, valkey.url(1))) as harness:
            harness.redis.flushdb()
            harness.publish(harness.traffic(300))
            harness.drain()
        with copy_of(primary, module_folder / "replica") as replica:
            eventually(lambda: has_caught_up(primary), 30)
            yield Servers(primary, replica, valkey.url(1))


def test_what_differs_on_the_replica_alone_is_not_reported(servers: Servers) -> None:
    with Store.of(servers.settings) as store, Store.for_reports(servers.settings) as replica:
        compare = partial(reconcile, store, servers.settings, replica=replica)
        assert compare().differences == []
        servers.on_primary("UPDATE user_agents SET usage_count = usage_count + 1")
        servers.on_primary("UPDATE usage_daily SET message_count = message_count + 1")
        eventually(lambda: has_caught_up(servers.primary), 30)
        assert {it.column for it in compare().differences} >= {"usage_count", "message_count"}
        with servers.paused():
            servers.on_primary("UPDATE user_agents SET usage_count = usage_count - 1")
            servers.on_primary("UPDATE usage_daily SET message_count = message_count - 1")
            assert counter_differences(replica, FIRST_PAIR, None)
            assert compare().differences == []
        # A repair asks no replica, and what it repairs is seen there later.
        servers.on_primary("UPDATE user_agents SET usage_count = usage_count - 1 WHERE usage_count > 0")
        assert reconcile(store, servers.settings, repair=True, replica=replica).left == 0
        eventually(lambda: has_caught_up(servers.primary), 30)
        assert compare().differences == []


def test_query_that_replication_cancels_is_repeated(servers: Servers) -> None:
    sleep = "SELECT pg_sleep(2) FROM (SELECT FROM public.usage_daily LIMIT 1) AS one"
    with servers.impatient(), Store.for_reports(servers.settings) as store:
        with (
            servers.locked_once_it_sleeps(),
            pytest.raises(RecoveryConflictError, match="hot_standby_feedback"),
            store.connection() as connection,
        ):
            connection.execute(sleep)
        with servers.locked_once_it_sleeps():
            assert len(store.rows(sleep)) == 1


def test_reports_read_the_replica_and_say_how_old_they_are(servers: Servers, tmp_path: Path) -> None:
    cli = Cli(tmp_path, **servers.env)
    with servers.paused(), Store.for_reports(servers.settings) as replica:
        servers.on_primary("TRUNCATE usage_events, usage_daily, agent_usage_hourly, user_agents CASCADE")
        eventually(lambda: (replica.data_age() or 0) >= 2, 30)
        report = cli.run("report", "--json")
        assert sum(row["usage_count"] for row in json.loads(report.stdout)) > 0
        assert report.stderr.startswith("these figures are those of a replica that is ")
        for command in ("anomalies", "search agent", "run reconcile"):
            done = cli.run(*command.split(), "--json")
            assert json.loads(done.stdout)["data_age_seconds"] >= 2, done
        with serving(tmp_path, servers.env["USAGE_REDIS_URL"], **servers.env) as service:
            answer = service.usage()
            assert answer.json["usage"], answer.text
            assert int(answer.headers["Age"]) >= 2
    # What is written is written to the primary.
    with Store.of(servers.settings) as store:
        assert [run.task for run in last_runs(store).values()] == ["maintenance.reconcile"]
    assert sum(row["usage_count"] for row in json.loads(cli.run("report", "--json").stdout)) == 0


def test_replica_that_is_away_is_named(servers: Servers, tmp_path: Path, valkey: Valkey) -> None:
    servers.replica.kill()
    cli = Cli(tmp_path, **servers.env)
    for line in cli.error_lines("report", "search agent", "anomalies", "run reconcile"):
        assert "is USAGE_REPORT_DATABASE_URL right and the server up?" in line
    page = text_of(answers(opened(valkey.url(1), **servers.fields), {})[0])
    assert "is USAGE_REPORT_DATABASE_URL right and the server up?" in page
    # A repair needs none.
    assert cli.run("run", "reconcile", "--repair", "--json").returncode == 0
