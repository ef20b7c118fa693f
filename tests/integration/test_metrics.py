"""The metrics for Prometheus agree with `status`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers import eventually, fetched
from tests.integration.commands import Cli, send, served_metrics
from tests.integration.database import run
from usage_worker.monitoring.background import Collected
from usage_worker.monitoring.check import Check, State
from usage_worker.monitoring.inspection import Figures
from usage_worker.monitoring.metrics import registry
from usage_worker.monitoring.status import CHECKS, SystemStatus

pytestmark = pytest.mark.usefixtures("unknown_are_created")

Samples = dict[tuple[str, str], float]


def figures(text: str) -> Samples:
    """Return the figures by name and value of the only label."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_printed_metrics_show_backlog_intake_and_runs(cli: Cli, redis_url: str) -> None:
    send(redis_url, 4)
    waiting = figures(cli.run("metrics").stdout)
    entries = sum(value for (name, _), value in waiting.items() if name == "usage_stream_entries")
    assert (waiting["usage_healthy", ""], waiting["usage_workers", ""]) == (0, 0)
    assert entries >= 1
    assert cli.drained()["applied"] == 4
    assert cli.run("run", "partitions").returncode == 0
    counted = figures(cli.run("metrics").stdout)
    assert counted["usage_events_total", "applied"] == 4
    assert counted["usage_task_last_success_timestamp_seconds", "maintenance.manage_partitions"] > 1.7e9


def test_metrics_show_missing_partitions(cli: Cli, database: str) -> None:
    assert figures(cli.run("metrics").stdout)["usage_partitions_short", "usage_events"] == 0
    for (name,) in run(
        database, "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'usage_events'::regclass"
    ):
        run(database, f"DROP TABLE {name}")
    assert figures(cli.run("metrics").stdout)["usage_partitions_short", "usage_events"] == 1


def test_check_that_warns_has_a_problem_and_does_not_fail() -> None:
    checks = [Check(state.name, state) for state in State]
    collected = Collected(SystemStatus(checks, Figures()), datetime.now(UTC), Figures())
    seen = figures(generate_latest(registry(lambda: collected)).decode())
    assert [seen["usage_problem", state.name] for state in State] == [0, 1, 1, 0]
    assert [seen["usage_check_fails", state.name] for state in State] == [0, 0, 1, 0]


def test_served_metrics_show_unreachable_server(cli: Cli) -> None:
    with served_metrics(cli) as url:
        assert figures(eventually(lambda: fetched(url), 30))["usage_problem", "postgresql"] == 0
    cli.env["DATABASE_URL"] = "postgresql://127.0.0.1:1/nowhere"
    with served_metrics(cli) as url:
        seen = figures(eventually(lambda: fetched(url), 30))
    assert (seen["usage_healthy", ""], seen["usage_problem", "postgresql"], seen["usage_problem", "redis"]) == (0, 1, 0)
    for family in ("usage_problem", "usage_check_fails"):
        assert [label for name, label in seen if name == family] == list(CHECKS)
    assert ("usage_stream_entries", "0") in seen
    assert ("usage_events_total", "applied") not in seen
