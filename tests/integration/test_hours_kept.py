"""What becomes of hours and days of agents when the ledger drops a day, and when months are past their retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.integration.database import run, schema, traffic
from tests.integration.hours import day_of, expected, hour_of, ledger, marks, rolled_up
from tests.integration.ledger import attached_partitions, create_days, date_of, days
from usage_worker.maintenance.hours import HOURS, roll_up_hours
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.migrate import Kept, Runner
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from datetime import date

    from tests.integration.users import Users

FILL = """
    INSERT INTO usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens,
                              tokens, cost_usd, response_time_ms, success, model)
    SELECT gen_random_uuid(), %(day)s::timestamptz + n * interval '71 minutes', 'usage',
           lpad((n % 3)::text, 32, '0')::uuid, lpad((n % 2)::text, 32, '0')::uuid, 1, 5, 7, 12, nullif(n, 4) * 0.25,
           nullif(n, 5) * 100, n <> 6, nullif('model', repeat('model', n % 2))
      FROM generate_series(1, 20) AS n
"""
MARK = "INSERT INTO agent_usage_hour_marks SELECT date_trunc('hour', occurred_at, 'UTC') FROM usage_events"


@pytest.fixture
def other(database: str) -> Iterator[Store]:
    with Store(database) as other:
        yield other


def fill(database: str, ahead: int) -> date:
    """Create a day of the ledger with events and their marks; return it."""
    create_days(database, ahead)
    day = date_of(ahead)
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    run(database, f"DELETE FROM agent_usage_hour_marks; {FILL.replace('%(day)s', repr(at.isoformat()))}; {MARK}")
    return day


def detach(database: str) -> None:
    """Leave the day as a run of the partition manager does that is killed after its first step."""
    (day,) = days(-92)
    run(
        database,
        f"COMMENT ON TABLE {day} IS 'dropped by usage-worker'; ALTER TABLE usage_events DETACH PARTITION {day}",
    )


def daily_rows(database: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    return rolled_up(database, "agent_usage_daily", "day")


def test_day_with_marks_is_computed_before_it_is_dropped(database: str, store: Store) -> None:
    day = fill(database, -92)
    hourly, daily = (expected(ledger(database), period) for period in (hour_of, day_of))
    settings = Settings(hourly_retention_days=200)
    assert manage_partitions(store, settings).dropped == days(-92)
    assert run(database, "SELECT count(*) FROM usage_events") == [(0,)]
    assert (rolled_up(database), daily_rows(database)) == (hourly, daily)
    assert marks(database) == set()
    assert roll_up_hours(store).hours == 0
    assert (rolled_up(database), daily_rows(database)) == (hourly, daily)
    report = manage_partitions(store, Settings(hourly_retention_days=1))
    if (day + timedelta(days=31)).replace(day=1) <= date_of(-90):
        assert f"agent_usage_hourly_{day:%Y%m}" in report.dropped
        assert rolled_up(database) == {}
    assert daily_rows(database) == daily


def test_hours_of_published_tables_are_rolled_up_and_days_dropped(database: str, store: Store) -> None:
    """PostgreSQL refuses a DELETE of a published table that has no replica identity, also one of no row."""
    fill(database, -3)
    run(database, "CREATE PUBLICATION everything FOR ALL TABLES")
    hourly = expected(ledger(database), hour_of)
    roll_up_hours(store)
    assert (rolled_up(database), marks(database)) == (hourly, set())
    create_days(database, -92)
    assert manage_partitions(store, Settings()).dropped == days(-92)


def test_day_waits_for_refresh_and_is_dropped_by_next_run(
    database: str, store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_worker.maintenance.partitions.HOURS_WAIT_SECONDS", 0.1)
    fill(database, -92)
    daily = expected(ledger(database), day_of)
    with sole_transaction(other, HOURS):
        report = manage_partitions(store, Settings())
    (day,) = days(-92)
    assert report.failed[day].endswith("another process is doing this already: analytics.hours")
    assert day in attached_partitions(database)
    assert manage_partitions(store, Settings()).dropped[0] == day
    assert (daily_rows(database), marks(database)) == (daily, set())


def test_refresh_reads_a_day_whose_drop_was_interrupted(database: str, store: Store) -> None:
    fill(database, -92)
    hourly = expected(ledger(database), hour_of)
    detach(database)
    roll_up_hours(store)
    assert (rolled_up(database), marks(database)) == (hourly, set())


def test_day_that_was_rolled_up_is_final(database: str, store: Store) -> None:
    """Somebody made its partition again, for an event that came after its drop."""
    settings = Settings(hourly_retention_days=200)
    fill(database, -92)
    manage_partitions(store, settings)
    before = rolled_up(database), daily_rows(database)
    day = fill(database, -92)
    run(database, "DELETE FROM usage_events WHERE tokens IS NOT NULL AND response_time_ms > 100")
    roll_up_hours(store)
    assert (rolled_up(database), marks(database)) == (before[0], set())
    fill(database, -92)
    assert manage_partitions(store, settings).dropped == [f"usage_events_{day:%Y%m%d}"]
    assert (rolled_up(database), daily_rows(database), marks(database)) == (*before, set())


def test_late_batch_is_in_the_day(database: str, store: Store) -> None:
    """Events that were written after the last refresh are found in the detached partition."""
    fill(database, -92)
    roll_up_hours(store)
    fill(database, -92)
    hourly, daily = (expected(ledger(database), period) for period in (hour_of, day_of))
    detach(database)
    manage_partitions(store, Settings(hourly_retention_days=200))
    assert (rolled_up(database), daily_rows(database)) == (hourly, daily)


def test_day_that_was_detached_before_an_upgrade_is_dropped(database: str, store: Store) -> None:
    """An upgrade does not reach its columns."""
    fill(database, -92)
    hourly, daily = (expected(ledger(database), period) for period in (hour_of, day_of))
    detach(database)
    run(database, f"ALTER TABLE {days(-92)[0]} DROP COLUMN provider, DROP COLUMN reasoning_tokens")
    create_days(database, -91)
    assert manage_partitions(store, Settings(hourly_retention_days=200)).dropped == days(-92, -91)
    assert (rolled_up(database), daily_rows(database)) == (hourly, daily)


def test_hours_stay_as_long_as_ledger(database: str, store: Store) -> None:
    fill(database, -80)
    roll_up_hours(store)
    hourly = rolled_up(database)
    assert hourly
    settings = Settings(retention_days=85, hourly_retention_days=1)
    assert manage_partitions(store, settings).dropped == []
    assert rolled_up(database) == hourly


def test_months_are_created_ahead(database: str, store: Store) -> None:
    manage_partitions(store, Settings(partitions_ahead_days=70))
    found = "SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'agent_usage_hourly'::regclass"
    assert run(database, found) == [(f"agent_usage_hourly_{date_of(70):%Y%m}",)]


def test_rollback_keeps_rows_and_upgrade_marks_ledger(database: str, store: Store) -> None:
    fill(database, -92)
    manage_partitions(store, Settings(hourly_retention_days=200))
    fill(database, -3)
    before = rolled_up(database), daily_rows(database)
    runner, at_latest = Runner(database), schema(database)
    assert runner.kept_by_down("4.3.0") == [
        Kept("agent_usage_daily", len(before[1]), only_columns=False),
        Kept("agent_usage_hourly", len(before[0]), only_columns=False),
    ]
    runner.down("4.3.0")
    assert runner.verify() == []
    roles = "anon", "authenticated", "service_role", "usage_ingest"
    may = "SELECT bool_or(has_table_privilege(role, %s::regclass, 'SELECT, INSERT')) FROM unnest(%s::text[]) AS role"
    for table in ("agent_usage_daily_kept_5_0_0", "agent_usage_hourly_kept_5_0_0"):
        assert run(database, may, table, list(roles)) == [(False,)]
    runner.up()
    assert (schema(database), runner.verify()) == (at_latest, [])
    assert (rolled_up(database), daily_rows(database)) == before
    wanted = {hour_of(event["occurred_at"]) for event in ledger(database)}
    assert wanted <= marks(database)
    roll_up_hours(store)
    assert rolled_up(database) == before[0] | expected(ledger(database), hour_of)


def test_empty_tables_are_dropped_by_rollback(database: str) -> None:
    runner, at_latest = Runner(database), schema(database)
    runner.down("4.3.0")
    assert run(database, "SELECT relname FROM pg_class WHERE relname ~ '^agent_usage'") == []
    runner.up()
    assert (schema(database), runner.verify()) == (at_latest, [])


def test_calls_succeed_during_rollback_and_upgrade(database: str, users: Users) -> None:
    def call(over: threading.Event) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            while not over.is_set():
                connection.execute("SELECT public.track_agent_usage(%s, %s)", [users.ann, users.agent])

    runner = Runner(database)
    with traffic(call, call):
        for _ in range(3):
            runner.down("4.3.0")
            runner.up()
    assert runner.verify() == []
