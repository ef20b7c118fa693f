"""Partitions are created ahead, dropped after their retention, and missing ones raise an alarm."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.database import run
from tests.integration.ledger import attached_partitions, create_days, date_of, days, partition_tables
from usage_worker.maintenance.partitions import (
    MANAGE_PARTITIONS,
    PartitionsReport,
    manage_partitions,
    partition_coverage,
)
from usage_worker.maintenance.task_run import run_task
from usage_worker.monitoring.status import collect_status
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import last_runs, sole_transaction

if TYPE_CHECKING:
    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness


def event(harness: IngestHarness, user: int, **fields: object) -> dict[str, Any]:
    """Return an event with an identity, which the oracle needs."""
    own = {"event_id": uuid4(), "occurred_at": datetime.now(UTC), "tokens": 1}
    return {"user_id": harness.users[user], "agent_id": harness.agents[0], **own, **fields}


def test_days_are_created_ahead_and_dropped_after_retention(database: str, store: Store) -> None:
    create_days(database, -92, -91, -90, -36, rows=3)
    settings = Settings(partitions_ahead_days=9)
    report = manage_partitions(store, settings)
    assert (report.created, report.dropped, report.failed) == (days(8, 9), days(-92, -91), {})
    assert attached_partitions(database) == days(-90, -36, *range(10))
    assert partition_tables(database) == set(attached_partitions(database))
    assert report.ahead_days["usage_events"] == 9
    assert not report.short
    again = manage_partitions(store, settings)
    assert (again.created, again.dropped) == ([], [])


def test_months_of_audit_trail(database: str, store: Store) -> None:
    run(database, "SELECT public.user_agent_history_ensure_month('2020-02-10')")
    report = manage_partitions(store, Settings(partitions_ahead_days=70))
    found = (
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'user_agent_history'::regclass ORDER BY 1"
    )
    months = [row[0] for row in run(database, found)]
    assert months[0] == f"user_agent_history_{date_of():%Y%m}"
    assert months[-1] == f"user_agent_history_{date_of(70):%Y%m}"
    assert "user_agent_history_202002" in report.dropped
    assert report.ahead_days["user_agent_history"] >= 70


def test_new_partitions_grant_nothing(database: str, store: Store) -> None:
    run(database, "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role")
    made = manage_partitions(store, Settings(partitions_ahead_days=9)).created
    assert set(days(8, 9)) <= set(made)
    privileges = """
        SELECT DISTINCT relrowsecurity, has_table_privilege('anon', oid, 'SELECT, INSERT, UPDATE, DELETE'),
               has_table_privilege('authenticated', oid, 'SELECT, INSERT, UPDATE, DELETE'),
               has_table_privilege('service_role', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
          FROM pg_class WHERE relname::text = ANY (%s)
    """
    assert run(database, privileges, made) == [(True, False, False, False)]


def test_new_partitions_have_autovacuum_settings_of_ledger(database: str, store: Store) -> None:
    manage_partitions(store, Settings(partitions_ahead_days=9))
    found = "SELECT DISTINCT reloptions FROM pg_class WHERE relname ~ '^usage_events_[0-9]{8}$'"
    assert run(database, found) == [(["autovacuum_vacuum_cost_limit=2000"],)]


def test_partition_detached_by_hand_is_kept(database: str, store: Store) -> None:
    create_days(database, -100, rows=3)
    (archived,) = days(-100)
    run(database, f"ALTER TABLE usage_events DETACH PARTITION {archived}")
    assert manage_partitions(store, Settings()).dropped == []
    assert run(database, f"SELECT count(*) FROM {archived}") == [(3,)]


@pytest.mark.parametrize("how", ["fails", "is killed"])
def test_partition_detached_by_hand_after_a_drop_is_kept(database: str, store: Store, how: str) -> None:
    """The drop has marked it: where the ledger has a default partition PostgreSQL refuses the rest, each time."""
    create_days(database, -100, rows=3)
    (archived,) = days(-100)
    run(database, "CREATE TABLE others PARTITION OF usage_events DEFAULT")
    if how == "fails":
        assert archived in manage_partitions(store, Settings()).failed
    else:
        run(database, f"COMMENT ON TABLE {archived} IS 'dropped by usage-worker'")
        manage_partitions(store, Settings(retention_days=200))
    run(database, f"ALTER TABLE usage_events DETACH PARTITION {archived}")
    assert manage_partitions(store, Settings()).dropped == []
    assert run(database, f"SELECT count(*) FROM {archived}") == [(3,)]


def test_partition_that_is_being_detached_by_hand_is_kept(database: str, store: Store) -> None:
    """CONCURRENTLY may wait for a long time between its halves."""
    create_days(database, -100, rows=3)
    (archived,) = days(-100)
    detach = f"ALTER TABLE usage_events DETACH PARTITION {archived}"
    hasty = psycopg.connect(database, autocommit=True, options="-c lock_timeout=200ms")
    with hasty, psycopg.connect(database) as reader:
        reader.execute("SELECT FROM usage_events")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            hasty.execute(f"{detach} CONCURRENTLY".encode())
    assert manage_partitions(store, Settings()).dropped == []
    run(database, f"{detach} FINALIZE")
    assert run(database, f"SELECT count(*) FROM {archived}") == [(3,)]


def test_counters_equal_sum_of_days_after_drop(harness: IngestHarness, database: str) -> None:
    harness.publish(*(event(harness, number, tokens=5) for number in range(5)))
    harness.flush()
    create_days(database, -120)
    run(
        database,
        "UPDATE usage_events SET occurred_at = %s",
        datetime.combine(date_of(-120), time(), UTC),
    )
    run(database, "UPDATE usage_daily SET day = %s", date_of(-120))
    assert manage_partitions(harness.resources.store, Settings()).dropped == days(-120)
    assert run(database, "SELECT count(*) FROM usage_events") == [(0,)]
    harness.check()
    assert run(database, "SELECT sum(usage_count), sum(total_tokens_used) FROM usage_daily") == [(5, 25)]


def test_missed_runs_lose_no_event_and_raise_alarm(harness: IngestHarness, database: str) -> None:
    """After a week without a run, today and the days of late events have no partitions."""
    store, settings = harness.resources.store, harness.resources.settings
    for partition in attached_partitions(database):
        run(database, f"DROP TABLE {partition}")
    ledger, *_ = partition_coverage(store, settings)
    assert (ledger.ahead_days, ledger.is_short) == (-1, True)
    times = [datetime.now(UTC) - timedelta(days=number) for number in range(8)]
    harness.publish(*(event(harness, 0, occurred_at=time) for time in times))
    assert harness.flush().applied == 8
    harness.check()
    assert attached_partitions(database) == days(*range(-7, 1))
    manage_partitions(store, settings)
    assert not any(seen.is_short for seen in partition_coverage(store, settings))


def test_obstacles_are_named_and_raise_alarm(database: str, cli: Cli) -> None:
    create_days(database, -100)
    (old,) = days(-100)
    (new,) = days(9)
    run(database, f"CREATE VIEW kept AS SELECT * FROM {old}")
    run(database, f"CREATE TABLE {new} ()")
    cli.env["USAGE_PARTITIONS_AHEAD_DAYS"] = "9"
    done = cli.run("run", "partitions", "--json")
    figures = json.loads(done.stdout)
    assert done.returncode == 1
    assert (figures["created"], figures["dropped"], figures["short"]) == (days(8), [], [])
    assert "not a partition of usage_events" in figures["failed"][new]
    assert "other objects depend on it" in figures["failed"][old]
    assert "failed" in cli.run("run", "partitions").stdout
    status = collect_status(Settings(DATABASE_URL=database, REDIS_URL=cli.env["REDIS_URL"]))
    (problem,) = [problem for problem in status.problems if problem.name == "partitions"]
    assert f"the last run left {old}" in problem.reason
    assert f"the last run left {new}" in problem.reason
    run(database, "DROP VIEW kept")
    run(database, f"DROP TABLE {new}")
    assert json.loads(cli.run("run", "partitions", "--json").stdout)["dropped"] == [old]


def test_status_reports_missing_partitions(database: str, cli: Cli) -> None:
    for partition in days(2, 4, 5, 6, 7):
        run(database, f"DROP TABLE {partition}")
    done = cli.run("status", "--json")
    seen = json.loads(done.stdout)
    assert done.returncode == 1
    assert seen["checks"]["partitions"] == "fail"
    assert seen["partitions"][0] == {"table": "usage_events", "ahead_days": 1, "wanted_days": 7, "is_short": True}
    line = "partitions\tusage_events has partitions for 1 days ahead of 7: run `usage-worker run partitions`\n"
    assert line in cli.run("status").stdout
    assert "usage_events: 7 days ahead" in cli.run("run", "partitions").stdout
    assert json.loads(cli.run("status", "--json").stdout)["checks"]["partitions"] == "ok"


def test_entry_keys_are_deleted_after_retention(harness: IngestHarness, database: str) -> None:
    store, settings = harness.resources.store, harness.resources.settings
    harness.publish(*(event(harness, 0) for _ in range(5)))
    harness.flush()
    recent = run(database, "SELECT count(*) FROM usage_entries")[0][0]
    old = (
        "INSERT INTO usage_entries SELECT gen_random_uuid(), now() - %s * interval '1 day' FROM generate_series(1, %s)"
    )
    run(database, old, settings.retention_days - 1, 10)
    run(database, old, settings.retention_days + 1, 12_000)
    run(database, old, settings.retention_days + 2, 3)
    with psycopg.connect(database) as batch:
        held = "SELECT key FROM usage_entries WHERE seen_at < now() - interval '91.5 days' LIMIT 1 FOR KEY SHARE"
        batch.execute(held)
        assert manage_partitions(store, settings).deleted_entries == 12_002
    assert manage_partitions(store, settings).deleted_entries == 1
    assert run(database, "SELECT count(*) FROM usage_entries") == [(recent + 10,)]
    harness.check()


def test_concurrent_run_reports_busy(database: str, store: Store) -> None:
    with Store(database) as other, sole_transaction(other, MANAGE_PARTITIONS):
        done = run_task(store, MANAGE_PARTITIONS, lambda: manage_partitions(store, Settings(partitions_ahead_days=9)))
    assert done == {"busy": True}
    assert attached_partitions(database) == days(*range(8))


def test_run_stopped_by_another_reports_its_own_work(database: str, store: Store) -> None:
    report = PartitionsReport()
    with Store(database) as other, ExitStack() as stack:

        def on_progress(done: int, _total: int | None) -> None:
            if done == 2:
                stack.enter_context(sole_transaction(other, MANAGE_PARTITIONS))

        settings = Settings(partitions_ahead_days=11)
        done = run_task(
            store, MANAGE_PARTITIONS, lambda: manage_partitions(store, settings, on_progress, report), report
        )
    assert (done["busy"], done["created"]) == (True, days(8, 9))
    assert attached_partitions(database) == days(*range(10))
    assert last_runs(store)[MANAGE_PARTITIONS].report["created"] == days(8, 9)


@pytest.mark.parametrize("progress", [(2, 4), (1, 3)], ids=["creating", "dropping"])
def test_alternating_runs_report_only_their_own_work(progress: tuple[int, int], database: str, store: Store) -> None:
    create_days(database, -93, -92, -91)
    settings, reports = Settings(partitions_ahead_days=11), []
    with Store(database) as other:

        def on_progress(done: int, total: int | None) -> None:
            if (done, total) == progress:
                reports.append(manage_partitions(other, settings))

        reports.append(manage_partitions(store, settings, on_progress))
    assert sorted(name for report in reports for name in report.created) == days(8, 9, 10, 11)
    assert sorted(name for report in reports for name in report.dropped) == days(-93, -92, -91)
    assert all(report.created + report.dropped for report in reports)
    assert attached_partitions(database) == days(*range(12))
