"""The hourly roll-up equals the ledger, whatever is counted when."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import eventually
from tests.hourly import bucket
from tests.integration.commands import PROGRAM
from tests.integration.database import run
from tests.integration.hours import check_hours, expected, hour_of, ledger, marks, rolled_up
from usage_worker.events.columns import MAX_MILLISECONDS, MAX_TOKENS
from usage_worker.maintenance.hours import HOURS, roll_up_hours
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.maintenance.task_run import run_task
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness
    from tests.integration.users import Users

NOW = datetime.now(UTC)
THIS_HOUR = hour_of(NOW)
WAITS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture(autouse=True)
def no_marks(database: str) -> None:
    """Delete the marks of the migration."""
    run(database, "DELETE FROM agent_usage_hour_marks")


_times = st.builds(
    lambda hours, microseconds: THIS_HOUR - timedelta(hours=hours, microseconds=microseconds),
    st.sampled_from([0, 1, 23, 24, 25, 34 * 24]),
    st.sampled_from([0, 1, 3_599_999_999, 1_800_000_000]),
)
_tokens = st.sampled_from([0, 1, MAX_TOKENS])
_maybe = st.none() | _tokens
_uses = st.fixed_dictionaries(
    {
        "event_id": st.integers(0, 5_000).map(lambda number: UUID(int=number)),
        "occurred_at": _times,
        "user": st.integers(0, 2),
        "agent": st.integers(0, 1),
        "success": st.booleans(),
        "messages": st.integers(0, 3),
        "input_tokens": _tokens,
        "output_tokens": _tokens,
        "cached_input_tokens": _maybe,
        "reasoning_tokens": _maybe,
        "tokens": _tokens,
        "cost_usd": st.none() | st.sampled_from(["0", "0.0000000001", "999999.9999999999"]),
        "response_time_ms": st.none() | st.sampled_from([0, 1, 2, 1_000, MAX_MILLISECONDS]),
        "model": st.none() | st.sampled_from(["small", "large"]),
        "provider": st.none() | st.just("somebody"),
    }
)
_ratings = st.fixed_dictionaries(
    {
        "type": st.just("rating"),
        "occurred_at": _times,
        "user": st.integers(0, 2),
        "agent": st.integers(0, 1),
        "rating": st.integers(0, 5),
    }
)


def send(harness: IngestHarness, *events: dict[str, Any]) -> None:
    """Publish events, the first of them twice, and count them."""
    made = [
        {name: value for name, value in event.items() if name not in {"user", "agent"} and value is not None}
        | {"user_id": harness.users[event.get("user", 0)], "agent_id": harness.agents[event.get("agent", 0)]}
        for event in events
    ]
    harness.publish(*made, *made[:1], counted=False)
    harness.flush()


def use(hours_ago: int = 0, **fields: object) -> dict[str, Any]:
    return {"occurred_at": THIS_HOUR - timedelta(hours=hours_ago), "tokens": 7, **fields}


@contextmanager
def locked_hours(database: str) -> Iterator[psycopg.Connection]:
    """Hold the table, so that a refresh waits after it has taken marks."""
    with psycopg.connect(database) as connection:
        connection.execute("LOCK TABLE agent_usage_hourly IN ACCESS EXCLUSIVE MODE")
        yield connection


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(_uses | _ratings, min_size=1, max_size=12), min_size=1, max_size=3))
def test_every_column_of_every_hour_equals_ledger(harness: IngestHarness, batches: list[list[dict[str, Any]]]) -> None:
    """Late, repeated, with and without costs and response times, ratings: the examples add to one another's ledger."""
    database = harness.resources.settings.database_url
    for batch in batches:
        send(harness, *batch)
        roll_up_hours(harness.resources.store)
        assert marks(database) == set()
        check_hours(database)


def test_duplicates_mark_nothing(harness: IngestHarness, database: str, store: Store) -> None:
    event = use(event_id=UUID(int=1))
    send(harness, event)
    roll_up_hours(store)
    send(harness, event)
    assert marks(database) == set()


def test_late_event_changes_exactly_its_hour(harness: IngestHarness, database: str, store: Store) -> None:
    send(harness, *(use(hours) for hours in (0, 1, 34 * 24 - 1, 34 * 24)))
    roll_up_hours(store)
    versions = "SELECT hour, xmin::text, users FROM agent_usage_hourly"
    before = set(run(database, versions))
    send(harness, use(34 * 24, user=1))
    late = THIS_HOUR - timedelta(hours=34 * 24)
    assert roll_up_hours(store).as_dict() == {"days": 1, "hours": 1}
    assert {row[0] for row in set(run(database, versions)) ^ before} == {late}
    check_hours(database)


def test_batch_that_commits_during_refresh_is_not_lost(harness: IngestHarness, database: str, store: Store) -> None:
    """Whether the refresh saw its events or not: its mark stays until the next one."""
    send(harness, use())
    with locked_hours(database) as holder:
        refresh = threading.Thread(target=roll_up_hours, args=(store,))
        refresh.start()
        eventually(lambda: run(database, WAITS))
        send(harness, use(user=1))
        holder.rollback()
        refresh.join(20)
    assert marks(database) == {THIS_HOUR}
    roll_up_hours(store)
    check_hours(database)


def test_killed_refresh_loses_nothing(harness: IngestHarness, database: str, store: Store, cli: Cli) -> None:
    send(harness, use(), use(24))
    before = marks(database)
    with locked_hours(database):
        with subprocess.Popen([PROGRAM, "run", "refresh"], cwd=cli.folder, env=cli.env) as process:
            eventually(lambda: run(database, WAITS), 20)
            process.send_signal(signal.SIGKILL)
        run(database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    assert marks(database) == before
    assert roll_up_hours(store).hours == 2
    check_hours(database)


@pytest.mark.parametrize("hour", ["infinity", "-infinity", "12000-01-01 00:00+00", "0001-01-01 00:00+00 BC"])
def test_mark_outside_the_years_of_python_is_refused(database: str, hour: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        run(database, "INSERT INTO agent_usage_hour_marks VALUES (%s)", hour)


def test_marks_of_the_first_and_last_year_are_deleted(database: str, store: Store) -> None:
    run(database, "INSERT INTO agent_usage_hour_marks VALUES ('0001-01-01 00:00+00'), ('9999-12-31 23:00+00')")
    roll_up_hours(store)
    assert marks(database) == set()


def test_second_process_stops(harness: IngestHarness, database: str) -> None:
    send(harness, use())
    with Store(database) as other, sole_transaction(other, HOURS):
        store = harness.resources.store
        assert run_task(store, HOURS, lambda: roll_up_hours(store)) == {"busy": True}
    assert marks(database) == {THIS_HOUR}


def test_hours_that_ledger_has_dropped_stay(harness: IngestHarness, database: str, store: Store) -> None:
    send(harness, use(48), use())
    roll_up_hours(store)
    before = rolled_up(database)
    run(database, f"DROP TABLE usage_events_{THIS_HOUR - timedelta(days=2):%Y%m%d}")
    run(database, "INSERT INTO agent_usage_hour_marks VALUES (%s)", THIS_HOUR - timedelta(days=2))
    assert roll_up_hours(store).hours == 0
    assert (rolled_up(database), marks(database)) == (before, set())


def test_reconcile_marks_hours_that_differ(harness: IngestHarness, database: str, store: Store, cli: Cli) -> None:
    """As where a worker of an older version counted, which makes no marks."""
    send(harness, use(), use(2), use(26), use(30))
    roll_up_hours(store)
    run(database, "DELETE FROM agent_usage_hourly WHERE hour = %s", THIS_HOUR)
    run(database, "UPDATE agent_usage_hourly SET usage_count = 2 WHERE hour = %s", THIS_HOUR - timedelta(hours=26))
    run(database, "UPDATE agent_usage_hourly SET usage_count = 3 WHERE hour = %s", THIS_HOUR - timedelta(hours=30))
    run(database, "INSERT INTO agent_usage_hour_marks VALUES (%s)", THIS_HOUR - timedelta(hours=30))
    report = reconcile(store, Settings())
    assert (report.hours, report.as_dict()["hours"], report.left) == (2, 2, 0)
    assert marks(database) == {THIS_HOUR - timedelta(hours=hours) for hours in (0, 26, 30)}
    assert reconcile(store, Settings()).hours == 0
    assert roll_up_hours(store).hours == 3
    check_hours(database)
    run(database, "DELETE FROM agent_usage_hourly")
    assert "4 hours of agents differed" in cli.run("run", "reconcile").stdout


def test_function_marks_its_hour(database: str, users: Users, store: Store) -> None:
    run(database, "SELECT public.track_agent_usage(%s, %s, p_response_time_ms => 40)", users.ann, users.agent)
    assert marks(database) == {hour_of(row["occurred_at"]) for row in ledger(database)}
    roll_up_hours(store)
    check_hours(database)


def test_buckets_are_within_two_percent(database: str) -> None:
    chosen = random.Random(0)
    times = [*range(1, 3_000), *(chosen.randrange(1, MAX_MILLISECONDS) for _ in range(3_000)), MAX_MILLISECONDS]
    found = run(
        database,
        "SELECT ms, usage_latency_bucket(ms), usage_latency_value(usage_latency_bucket(ms)) FROM unnest(%s) AS ms",
        times,
    )
    assert max(abs(value - ms) / ms for ms, _, value in found) <= 0.02 + 1e-9
    assert [number for _, number, _ in found] == list(map(bucket, times))
    assert found[-1][1] == 458
    ends = "SELECT usage_latency_bucket(0), usage_latency_value(0::smallint), usage_latency_bucket(NULL)"
    assert run(database, ends) == [(0, 0.0, None)]


def test_percentiles_of_merged_hours_are_within_two_percent(
    harness: IngestHarness, database: str, store: Store
) -> None:
    chosen = random.Random(0)
    times = [min(int(chosen.lognormvariate(6, 1.5)), MAX_MILLISECONDS) for _ in range(400)]
    send(harness, *(use(number % 20, response_time_ms=ms) for number, ms in enumerate(times)))
    roll_up_hours(store)
    exact = sorted(row["response_time_ms"] for row in ledger(database))
    hours = THIS_HOUR - timedelta(hours=19), THIS_HOUR + timedelta(hours=1)
    (merged,) = run(database, "SELECT p50_ms, p95_ms, p99_ms FROM usage_summary(%s, %s, p_group_by => '{}')", *hours)
    for percent, found in zip((50, 95, 99), merged, strict=True):
        nearest_rank = exact[-(-percent * len(exact) // 100) - 1]
        assert abs(found - nearest_rank) <= 0.02 * nearest_rank


def test_expected_rows_differ_when_ledger_does(harness: IngestHarness, database: str, store: Store) -> None:
    """The comparison of these tests can fail."""
    send(harness, use(response_time_ms=5))
    roll_up_hours(store)
    run(database, "UPDATE usage_events SET response_time_ms = 6")
    assert rolled_up(database) != expected(ledger(database), hour_of)
