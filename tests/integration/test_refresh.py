"""The refresh of the analytics by command and by Celery task."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.helpers import eventually
from tests.integration.commands import PROGRAM, Cli, send
from tests.integration.database import run
from usage_worker.maintenance.analytics import REFRESH
from usage_worker.maintenance.hours import HOURS
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import last_runs, sole_transaction

pytestmark = pytest.mark.usefixtures("unknown_are_created")

USES = "SELECT coalesce(sum(usage_count), 0)::int FROM user_agent_analytics"
ACTIVE = """
    SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active' AND query LIKE '%REFRESH MAT%'
"""


def test_command_refreshes_outdated_analytics(cli: Cli, database: str, redis_url: str) -> None:
    send(redis_url, 3)
    cli.drained()
    done = cli.run("run", "refresh", "--json")
    figures, hours = (json.loads(done.stdout)[name] for name in ("analytics", "hours"))
    assert (done.returncode, figures["refreshed"], hours["hours"] > 0) == (0, True, True)
    assert run(database, "SELECT sum(usage_count)::int FROM agent_usage_hourly") == [(3,)]
    assert run(database, USES) == [(3,)]
    with Store(database) as store:
        assert last_runs(store)[REFRESH].report == {key: figures[key] for key in ("refreshed", "refreshed_at")}
        assert last_runs(store)[HOURS].report == {key: hours[key] for key in ("days", "hours")}
        # Statistics may show the writes of drain late.
        eventually(lambda: cli.run("run", "refresh").stdout.startswith("nothing has changed since"), 30)
        assert not last_runs(store)[REFRESH].report["refreshed"]
        run(database, "UPDATE user_agent_analytics_state SET mark = ''")
        assert cli.run("run", "refresh").stdout.startswith("analytics refreshed in ")
        with sole_transaction(store, REFRESH):
            busy = cli.run("run", "refresh")
    assert (busy.returncode, busy.stdout.splitlines()[1:]) == (1, [])
    assert busy.stdout.startswith("0 hours rolled up in ")
    assert busy.stderr.endswith(f"usage-worker: another process is doing this already: {REFRESH}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels_refresh_in_database(cli: Cli, database: str, number: signal.Signals) -> None:
    """The view is replaced by one that takes a minute to refresh, so that only a cancelled refresh ends soon."""
    run(
        database,
        """
        DROP VIEW user_agent_analytics_own;
        DROP MATERIALIZED VIEW user_agent_analytics;
        CREATE TABLE pace AS SELECT 0 AS seconds;
        CREATE MATERIALIZED VIEW user_agent_analytics AS SELECT seconds, pg_sleep(seconds)::text FROM pace;
        CREATE UNIQUE INDEX ON user_agent_analytics (seconds);
        UPDATE pace SET seconds = 60
        """,
    )
    state = run(database, "SELECT * FROM user_agent_analytics_state")
    with subprocess.Popen([PROGRAM, "run", "refresh"], cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE) as process:
        try:
            eventually(lambda: run(database, ACTIVE))
            process.send_signal(number)
            assert process.wait(120) == 130
            assert process.stdout
            assert process.stdout.read() == b""
        finally:
            process.kill()
    eventually(lambda: not run(database, ACTIVE))
    assert run(database, "SELECT * FROM user_agent_analytics_state") == state
    run(database, "UPDATE pace SET seconds = 1")
    assert cli.run("run", "refresh").stdout.startswith("analytics refreshed in 1.")
