"""Analytics: the totals, access to them, and refreshes that block no other session."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from threading import Barrier, Event
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import copy_up_to, interrupted, run
from tests.integration.users import FORBIDDEN, session_as
from usage_worker.errors import BusyError, MigrationError
from usage_worker.maintenance.analytics import REFRESH, refresh
from usage_worker.maintenance.task_run import run_task
from usage_worker.migrate import Runner, discover
from usage_worker.store.connection import Store
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

FIGURES = (
    "user_id, agent_id, usage_count, message_count, success_count, error_count, success_rate_percent,"
    " total_tokens_used, total_cost_usd, avg_response_time_ms, last_used_at, usage_count_1d, total_tokens_used_1d,"
    " total_cost_usd_1d, usage_count_7d, total_tokens_used_7d, total_cost_usd_7d, usage_count_30d,"
    " total_tokens_used_30d, total_cost_usd_30d, success_rate_percent_30d, avg_response_time_ms_30d, user_rank,"
    " agent_rank"
)
# Computes the columns of the view independently: from single events, with ranks as counts of higher rows.
LEDGER = """
    WITH today AS (
        SELECT (refreshed_at AT TIME ZONE 'UTC')::date AS day FROM user_agent_analytics_state
    ), live AS (
        SELECT p.user_id, p.agent_id, e.occurred_at, e.success, e.messages, e.tokens, coalesce(e.cost_usd, 0) AS cost,
               e.response_time_ms AS ms, today.day - (e.occurred_at AT TIME ZONE 'UTC')::date AS days_ago
          FROM user_agents p CROSS JOIN today LEFT JOIN usage_events e
            ON e.user_id = p.user_id AND e.agent_id = p.agent_id AND e.type = 'usage'
         WHERE p.deleted_at IS NULL
    ), pairs AS (
        SELECT user_id, agent_id, count(occurred_at) AS uses, coalesce(sum(messages), 0) AS messages,
               count(*) FILTER (WHERE success) AS good, count(*) FILTER (WHERE NOT success) AS bad,
               round(100 * avg(success::int), 2) AS rate, coalesce(sum(tokens), 0) AS tokens,
               coalesce(sum(cost), 0) AS cost, round(avg(ms)) AS ms, max(occurred_at) AS newest
          FROM live GROUP BY user_id, agent_id
    ), agents AS (
        SELECT agent_id, sum(uses) AS uses FROM pairs GROUP BY agent_id
    )
    SELECT p.*, w1.uses, w1.tokens, w1.cost, w7.uses, w7.tokens, w7.cost, w30.uses, w30.tokens, w30.cost, w30.rate,
           w30.ms, 1 + (SELECT count(*) FROM pairs o WHERE o.user_id = p.user_id AND o.uses > p.uses),
           1 + (SELECT count(*) FROM agents o WHERE o.uses > a.uses)
      FROM pairs p JOIN agents a ON a.agent_id = p.agent_id
"""
WINDOW = """
     CROSS JOIN LATERAL (
        SELECT count(*) AS uses, coalesce(sum(tokens), 0) AS tokens, coalesce(sum(cost), 0) AS cost,
               round(100 * avg(success::int), 2) AS rate, round(avg(ms)) AS ms
          FROM live l WHERE l.user_id = p.user_id AND l.agent_id = p.agent_id AND days_ago < {days}
     ) w{days}
"""
LEDGER += "".join(WINDOW.format(days=days) for days in (1, 7, 30)) + " ORDER BY 1, 2"


def figures(url: str) -> list[tuple[Any, ...]]:
    return run(url, f"SELECT {FIGURES} FROM user_agent_analytics ORDER BY 1, 2")


def event(user: UUID, agent: UUID, **fields: Any) -> dict[str, Any]:
    return {"event_id": uuid4(), "occurred_at": datetime.now(UTC), "user_id": user, "agent_id": agent, **fields}


def traffic(harness: IngestHarness, count: int) -> list[dict[str, Any]]:
    """Generate events of five weeks, mostly near the edges of the windows, for few pairs, so that ranks are tied."""
    random = Random(5)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    events = []
    for _ in range(count):
        edge = midnight - timedelta(days=random.choice((0, 1, 6, 7, 29, 30, 33)))
        when = min(
            edge + random.choice((timedelta(), -timedelta(microseconds=1), timedelta(hours=5))), datetime.now(UTC)
        )
        fields: dict[str, Any] = {
            "messages": random.randrange(4),
            "tokens": random.randrange(1000),
            "cost_usd": random.choice((None, Decimal(random.randrange(1000)) / 10**10)),
            "response_time_ms": random.choice((None, random.randrange(2000))),
            "success": random.random() < 0.7,
        }
        if random.random() < 0.1:
            fields = {"type": "rating", "rating": Decimal(4)}
        pair = random.choice(harness.users[:12]), random.choice(harness.agents[:4])
        events.append(event(*pair, occurred_at=when, **fields))
    return events


def settle(harness: IngestHarness) -> None:
    """Refresh until the statistics of earlier changes have arrived."""
    eventually(lambda: not refresh(harness.resources.store).refreshed, 30)


def test_totals_windows_and_ranks_equal_ledger(harness: IngestHarness, database: str) -> None:
    harness.publish(*traffic(harness, 600))
    harness.flush()
    run(database, "INSERT INTO user_agents (user_id, agent_id) VALUES (%s, %s)", harness.users[-1], harness.agents[-1])
    run(database, "UPDATE user_agents SET deleted_at = now() WHERE user_id = %s", harness.users[0])
    assert refresh(harness.resources.store).refreshed
    found = figures(database)
    assert found == run(database, LEDGER)
    assert 30 < len(found) == run(database, "SELECT count(*) FROM user_agents WHERE deleted_at IS NULL")[0][0]
    # The comparison is meaningful only with ties and with different totals in each window.
    assert len({(row[0], row[-2]) for row in found}) < len(found)
    assert sum(row[11] for row in found) < sum(row[14] for row in found) < sum(row[17] for row in found)
    assert sum(row[17] for row in found) < sum(row[2] for row in found)


def test_soft_deleted_pair_disappears_and_returns(harness: IngestHarness, database: str) -> None:
    (user, other), (agent, second) = harness.users[:2], harness.agents[:2]
    harness.publish(
        *(event(user, agent) for _ in range(3)), *(event(other, second) for _ in range(2)), event(user, second)
    )
    harness.flush()
    lines = (
        "SELECT agent_id, usage_count, user_rank, agent_rank FROM user_agent_analytics WHERE user_id = %s ORDER BY 3"
    )
    refresh(harness.resources.store)
    assert run(database, lines, user) == [(agent, 3, 1, 1), (second, 1, 2, 1)]
    for deleted, expected in (("now()", [(second, 1, 1, 1)]), ("NULL", [(agent, 3, 1, 1), (second, 1, 2, 1)])):
        run(
            database, f"UPDATE user_agents SET deleted_at = {deleted} WHERE (user_id, agent_id) = (%s, %s)", user, agent
        )
        eventually(lambda: refresh(harness.resources.store).refreshed, 30)
        assert run(database, lines, user) == expected


def test_refreshes_after_new_events_or_new_day(harness: IngestHarness, database: str) -> None:
    store = harness.resources.store
    assert refresh(store).refreshed
    settle(harness)
    before = refresh(store)
    harness.publish(event(harness.users[0], harness.agents[0]))
    assert not refresh(store).refreshed
    harness.flush()
    after = refresh(store)
    assert (after.refreshed, after.refreshed_at > before.refreshed_at) == (True, True)
    settle(harness)
    # The old function does not write intake totals.
    run(database, "SELECT track_agent_usage(%s, %s)", harness.users[0], harness.agents[0])
    eventually(lambda: refresh(store).refreshed, 30)
    assert run(database, "SELECT usage_count, usage_count_1d FROM user_agent_analytics") == [(2, 2)]
    settle(harness)
    run(database, "UPDATE user_agent_analytics_state SET mark = regexp_replace(mark, '^\\S+', '2026-01-01')")
    assert refresh(store).refreshed
    assert not refresh(store).refreshed


def test_restored_schema_without_data_is_filled(harness: IngestHarness, database: str) -> None:
    harness.publish(event(harness.users[0], harness.agents[0]))
    harness.flush()
    run(database, "REFRESH MATERIALIZED VIEW user_agent_analytics WITH NO DATA; DELETE FROM user_agent_analytics_state")
    assert refresh(harness.resources.store).refreshed
    assert figures(database) == run(database, LEDGER)
    assert len(run(database, "SELECT refreshed_at FROM user_agent_analytics_state")) == 1


def test_refresh_blocks_nothing(harness: IngestHarness, database: str) -> None:
    """Readers see the data before the refresh, ingest continues, and a second refresh reports busy."""
    user, agent = harness.users[0], harness.agents[0]
    harness.publish(event(user, agent))
    harness.flush()
    refresh(harness.resources.store)
    harness.publish(event(user, agent))
    harness.flush()
    own = "SELECT usage_count, refreshed_at FROM user_agent_analytics_own"
    with Store(database) as another, session_as(database, "authenticated", user) as reader:
        reader.execute("SET statement_timeout = '5s'")
        before = reader.execute(own).fetchall()
        with sole_transaction(another, REFRESH) as refreshing:
            refreshing.execute(query("analytics_refresh"))
            assert reader.execute(own).fetchall() == before
            harness.publish(event(user, agent))
            assert harness.flush().applied == 1
            assert run_task(harness.resources.store, REFRESH, lambda: refresh(harness.resources.store)) == {
                "busy": True
            }
        assert [row[0] for row in before] == [1]
        assert [row[0] for row in reader.execute(own).fetchall()] == [2]
    harness.check()


def test_concurrent_readers_refreshes_and_ingest(
    harness: IngestHarness, database: str, make_resources: Callable[..., Resources]
) -> None:
    over, seen = Event(), [0]
    lines = "SELECT coalesce(sum(usage_count), 0)::int, bool_and(usage_count = success_count + error_count)"

    def read() -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            while not over.is_set():
                uses, whole = connection.execute(f"{lines} FROM user_agent_analytics".encode()).fetchall()[0]
                assert whole in (True, None)
                assert uses >= seen[-1]
                seen.append(uses)

    def refresh_repeatedly() -> int:
        store, refreshed = make_resources(DATABASE_URL=harness.resources.settings.database_url).store, 0
        while not over.is_set():
            refreshed += bool(run_task(store, REFRESH, lambda: refresh(store)).get("refreshed"))
        return refreshed

    with ThreadPoolExecutor() as pool:
        reading, *refreshers = pool.submit(read), pool.submit(refresh_repeatedly), pool.submit(refresh_repeatedly)
        try:
            for _ in range(10):
                harness.publish(*traffic(harness, 100))
                harness.flush()
        finally:
            over.set()
        reading.result(30)
        assert sum(refresher.result(30) for refresher in refreshers) > 3
    assert len(set(seen)) > 3
    settle(harness)
    assert figures(database) == run(database, LEDGER)
    harness.check()


def test_manual_refresh_is_not_awaited(harness: IngestHarness, database: str) -> None:
    with psycopg.connect(database) as by_hand:
        by_hand.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY user_agent_analytics")
        with pytest.raises(BusyError):
            refresh(harness.resources.store)
    assert refresh(harness.resources.store).refreshed


def test_short_lock_is_awaited(harness: IngestHarness, database: str) -> None:
    """Autovacuum gives up its lock after a second; here another session does."""
    waiting = """
        SELECT 1 FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND clock_timestamp() > query_start + '1.5 s'
    """
    with psycopg.connect(database) as vacuum, ThreadPoolExecutor() as pool:
        # The lock mode of VACUUM.
        vacuum.execute("ALTER MATERIALIZED VIEW user_agent_analytics SET (autovacuum_enabled = on)")
        refreshing = pool.submit(refresh, harness.resources.store)
        eventually(lambda: run(database, waiting))
        vacuum.commit()
        assert refreshing.result(30).refreshed


def test_one_of_many_concurrent_runs_refreshes(harness: IngestHarness, database: str) -> None:
    harness.publish(*traffic(harness, 200))
    harness.flush()
    refresh(harness.resources.store)
    settle(harness)
    run(database, "UPDATE user_agent_analytics_state SET mark = ''")
    together = Barrier(6)

    def attempt() -> bool:
        with Store(database) as store:
            store.ping()
            together.wait(30)
            return bool(run_task(store, REFRESH, lambda: refresh(store)).get("refreshed"))

    with ThreadPoolExecutor(together.parties) as pool:
        attempts = [pool.submit(attempt) for _ in range(together.parties)]
        assert sum(future.result(60) for future in attempts) == 1


def test_users_see_only_their_own_rows(harness: IngestHarness, database: str) -> None:
    harness.publish(*traffic(harness, 200))
    harness.flush()
    refresh(harness.resources.store)
    lines = "SELECT user_id, usage_count, user_rank, agent_rank FROM {} ORDER BY user_id, agent_id"
    sees, all_lines = lines.format("user_agent_analytics_own"), run(database, lines.format("user_agent_analytics"))
    for user in (harness.users[0], harness.users[1], harness.users[-1]):
        with session_as(database, "authenticated", user) as session:
            assert session.execute(sees.encode()).fetchall() == [line for line in all_lines if line[0] == user]
            for relation in ("user_agent_analytics", "user_agent_analytics_state"):
                with pytest.raises(FORBIDDEN):
                    session.execute(f"SELECT FROM {relation}".encode())
            with pytest.raises(psycopg.Error):
                session.execute("DELETE FROM user_agent_analytics_own")
    with session_as(database, "authenticated") as session:
        assert session.execute(sees.encode()).fetchall() == []
    for relation in ("user_agent_analytics", "user_agent_analytics_own", "user_agent_analytics_state"):
        with session_as(database, "anon") as anonymous, pytest.raises(FORBIDDEN):
            anonymous.execute(f"SELECT FROM {relation}".encode())
    with session_as(database, "service_role") as service:
        assert service.execute(lines.format("user_agent_analytics").encode()).fetchall() == all_lines


def test_leaky_condition_sees_no_foreign_row(harness: IngestHarness, database: str) -> None:
    harness.publish(*traffic(harness, 200))
    harness.flush()
    refresh(harness.resources.store)
    user = harness.users[0]

    def leaked() -> set[str]:
        found: set[str] = set()
        with session_as(database, "authenticated", user) as session:
            session.add_notice_handler(lambda notice: found.add(str(notice.message_primary)))
            session.execute(
                "CREATE FUNCTION pg_temp.leak(uuid) RETURNS boolean COST 0.0001 LANGUAGE plpgsql"
                " AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
            )
            # Forces a sequential scan.
            session.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")
            session.execute("SELECT FROM user_agent_analytics_own WHERE pg_temp.leak(user_id)")
        return found

    assert leaked() == {str(user)}
    run(database, "ALTER VIEW user_agent_analytics_own SET (security_barrier = false)")
    assert len(leaked()) > 5  # without the security barrier rows leak


def test_down_and_up_restore_analytics(harness: IngestHarness, database: str) -> None:
    harness.publish(*(event(user, harness.agents[0]) for user in harness.users))
    harness.flush()
    runner = Runner(database)
    runner.down("3.0.0")
    assert run(database, "SELECT to_regclass('user_agent_analytics')") == [(None,)]
    runner.up()
    assert runner.verify() == []
    # Filled before the first refresh, since the days were set aside.
    lines = "SELECT count(*), sum(usage_count)::int, sum(usage_count_30d)::int FROM user_agent_analytics"
    assert run(database, lines) == [(len(harness.users),) * 3]
    refresh(harness.resources.store)
    assert run(database, lines) == [(len(harness.users),) * 3]


def test_upgrade_resumes_after_any_interruption(database: str, tmp_path: Path) -> None:
    migration = next(step for step in discover() if step.name == "user_agent_analytics")
    folder = copy_up_to(migration, tmp_path / "migrations")
    file = folder / migration.up.name
    text = file.read_text()
    Runner(database).down("3.0.0")
    readable = """
        SELECT count(*) FROM pg_class WHERE NOT relispopulated AND has_table_privilege('service_role', oid, 'SELECT')
    """
    for _, broken in interrupted(text):
        file.write_text(broken)
        with pytest.raises(MigrationError, match="division by zero"):
            Runner(database, folder).up()
        assert run(database, readable) == [(0,)]
    file.write_text(text)
    Runner(database, folder).up()
    assert Runner(database, folder).verify() == []
    assert run(database, "SELECT relispopulated FROM pg_class WHERE relname = 'user_agent_analytics'") == [(True,)]
