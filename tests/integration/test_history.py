"""The audit trail records changes of users with actor and time, but not counters, and loses no entry."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.integration.database import run, schema
from tests.integration.users import FORBIDDEN, Users, session_as
from usage_worker.migrate import EMPTY, Runner

if TYPE_CHECKING:
    from tests.integration.conftest import IngestHarness

# Shares have their own tests.
TRAIL = "public.user_agent_history WHERE action <> 'share'"
CHANGES = f"SELECT action, changes FROM {TRAIL} ORDER BY id"
BULK = 10_000
COUNT = """
    UPDATE public.user_agents SET
        usage_count = usage_count + 1, message_count = message_count + 1, success_count = success_count + 1,
        total_tokens_used = total_tokens_used + 5, total_cost_usd = total_cost_usd + 0.01, last_used_at = now(),
        user_rating = CASE WHEN last_rating_at IS NULL THEN user_rating ELSE 5 END,
        last_rating_at = greatest(last_rating_at, NULL)
"""
TRIGGERS = ["user_agents_record_change", "user_agents_record_rating", "user_agents_take_shares"]


def fill(url: str, rows: int) -> None:
    run(
        url,
        f"""
        WITH u AS (INSERT INTO auth.users (email) SELECT 'u' FROM generate_series(1, {rows}) RETURNING id),
            a AS (INSERT INTO public.agents (name) VALUES ('a') RETURNING id)
        INSERT INTO public.user_agents (user_id, agent_id) SELECT u.id, a.id FROM u, a
        """,
    )


def test_audit_trail_records_changes_and_actor(database: str, users: Users) -> None:
    with session_as(database, "authenticated", users.ann) as session:
        session.execute(
            "UPDATE public.user_agents SET"
            " custom_name = 'Ada', tags = '{a,b}', settings = '{\"n\": 1}', folder = folder"
        )
        session.execute("UPDATE public.user_agents SET notes = notes, is_pinned = false")
        session.execute("UPDATE public.user_agents SET user_rating = 4.5, last_rating_at = now()")
        session.execute("UPDATE public.user_agents SET user_rating = 4.50")
        session.execute("UPDATE public.user_agents SET archived_at = '2026-01-31 23:00-02', status = 'archived'")
    assert run(database, CHANGES) == [
        (
            "update",
            {
                # What users write is not kept.
                "custom_name": {},
                "tags": {},
                "settings": {},
            },
        ),
        ("rate", {"user_rating": {"old": None, "new": 4.5}}),
        (
            "update",
            {
                "archived_at": {"old": None, "new": "2026-02-01T01:00:00+00:00"},
                "status": {"old": "active", "new": "archived"},
            },
        ),
    ]
    who = f"SELECT DISTINCT user_agent_id, user_id, agent_id, actor, actor_role FROM {TRAIL}"
    assert run(database, who) == [(users.row, users.ann, users.agent, users.ann, "authenticated")]


def test_audit_trail_records_delete_and_restore(database: str, users: Users) -> None:
    key = [users.ann, users.agent]
    with session_as(database, "authenticated", users.ann) as session:
        session.execute("SELECT public.soft_delete_user_agent(%s, %s)", key)
        session.execute("SELECT public.add_user_agent(%s, %s)", key)
    with session_as(database, "service_role") as service:
        service.execute("SELECT public.soft_delete_user_agent(%s, %s)", key)
        service.execute("SELECT public.restore_user_agent(%s, %s)", key)
        service.execute("DELETE FROM public.user_agents")
    rows = run(database, f"SELECT action, actor, actor_role FROM {TRAIL} ORDER BY id")
    assert rows == [
        ("soft_delete", users.ann, "authenticated"),
        ("restore", users.ann, "authenticated"),
        ("soft_delete", None, "service_role"),
        ("restore", None, "service_role"),
        ("delete", None, "service_role"),
    ]


def test_audit_trail_outlives_deleted_user(database: str, users: Users) -> None:
    run(database, "DELETE FROM auth.users WHERE id = %s", users.ann)
    assert run(database, "SELECT count(*) FROM public.user_agents") == [(0,)]
    rows = run(database, f"SELECT action, user_id, agent_id, changes FROM {TRAIL}")
    assert rows == [("delete", users.ann, users.agent, {})]


def test_only_service_can_record_delete_as_purge(database: str, users: Users) -> None:
    purge = "SET usage_worker.action = 'purge'"
    with session_as(database, "authenticated", users.ann) as session:
        session.execute(purge)
        session.execute("DELETE FROM public.user_agents")
    fill(database, 3)
    run(database, "UPDATE public.user_agents SET deleted_at = '2026-01-01 00:00+00'")
    with session_as(database, "service_role") as service, service.transaction():
        service.execute("SET LOCAL usage_worker.action = 'purge'")
        service.execute("DELETE FROM public.user_agents WHERE deleted_at < now()")
    fill(database, 1)
    run(database, "DELETE FROM public.user_agents")
    gone = {"deleted_at": {"old": "2026-01-01T00:00:00+00:00", "new": None}}
    removed = "SELECT action, changes FROM public.user_agent_history WHERE action IN ('delete', 'purge') ORDER BY id"
    found = run(database, removed)
    assert found[:4] == [("delete", {}), *[("purge", gone)] * 3]
    assert {action for action, _ in found[4:]} == {"delete"}


def test_users_read_own_audit_trail_and_cannot_write(database: str, users: Users) -> None:
    run(database, "UPDATE public.user_agents SET notes = 'x'")
    read = f"SELECT count(*) FROM {TRAIL}".encode()

    def count(role: str, user: uuid.UUID | None = None) -> int:
        with session_as(database, role, user) as session:
            row = session.execute(read).fetchone()
            return int(row[0]) if row else 0

    assert [count("authenticated", user) for user in (users.ann, users.bob, users.cid, users.dan, None)] == [
        *(1, 0, 0, 0, 0)
    ]
    assert count("service_role") == 1
    with pytest.raises(FORBIDDEN):
        count("anon")
    partition = f"user_agent_history_{datetime.now(UTC):%Y%m}"
    for role in ("authenticated", "service_role"):
        for forbidden in (
            "INSERT INTO public.user_agent_history (user_agent_id, user_id, agent_id, action, changes)"
            " SELECT id, user_id, agent_id, 'update', '{}' FROM public.user_agents",
            "UPDATE public.user_agent_history SET changes = '{}'",
            "DELETE FROM public.user_agent_history",
            f"SELECT FROM public.{partition}",
            "SELECT public.user_agent_history_ensure_month('2030-01-01')",
        ):
            with session_as(database, role, users.ann) as session, pytest.raises(FORBIDDEN):
                session.execute(forbidden.encode())


def test_audit_trail_records_ratings_and_no_counted_events(harness: IngestHarness, database: str) -> None:
    user, agent = harness.users[0], harness.agents[0]

    def count(**event: Any) -> None:
        now = datetime.now(UTC)
        harness.publish({"event_id": uuid.uuid4(), "occurred_at": now, "user_id": user, "agent_id": agent, **event})
        harness.flush()

    for _ in range(3):
        count()
    assert run(database, CHANGES) == []
    count(type="rating", rating=4)
    count(type="rating", rating=4)
    count()
    harness.check()
    assert run(database, CHANGES) == [("rate", {"user_rating": {"old": None, "new": 4.0}})]
    assert run(database, "SELECT user_id, actor FROM public.user_agent_history") == [(user, None)]


def test_audit_trail_does_not_slow_counter_updates(database: str) -> None:
    fill(database, BULK)
    spent: dict[bool, list[float]] = {True: [], False: []}
    with psycopg.connect(database, autocommit=True) as connection:
        for turn in range(10):
            for on in (turn % 2 == 0, turn % 2 == 1):
                for trigger in TRIGGERS:
                    connection.execute(
                        f"ALTER TABLE public.user_agents {'ENABLE' if on else 'DISABLE'} TRIGGER {trigger}".encode()
                    )
                connection.execute("VACUUM public.user_agents")
                began = time.perf_counter()
                assert connection.execute(COUNT).rowcount == BULK
                spent[on].append(time.perf_counter() - began)
    sys.stdout.write(
        f"\n{BULK:,} counter updates: {1000 * min(spent[True]):.0f} ms with the triggers of the audit trail and the"
        f" shares, {1000 * min(spent[False]):.0f} ms without\n"
    )
    assert run(database, CHANGES) == []
    # A trigger function called for each row would take ten times as long.
    assert min(spent[True]) < 2 * min(spent[False])


def test_missing_month_is_created_by_concurrent_entries(database: str) -> None:
    """The month is missing, as after weeks without maintenance; concurrent writers lose no entry."""
    writers, turns = 6, 5
    fill(database, writers)
    ids = [row[0] for row in run(database, "SELECT id FROM public.user_agents")]
    together = threading.Barrier(writers)
    partition = f"public.user_agent_history_{datetime.now(UTC):%Y%m}"

    def write(row_id: uuid.UUID) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            for turn in range(turns):
                if together.wait(30) == 0:
                    connection.execute(f"DROP TABLE {partition}".encode())
                together.wait(30)
                connection.execute("UPDATE public.user_agents SET sort_order = %s WHERE id = %s", [turn + 1, row_id])

    with ThreadPoolExecutor(writers) as pool:
        for future in [pool.submit(write, row_id) for row_id in ids]:
            future.result()
    assert run(database, "SELECT count(DISTINCT user_agent_id), count(*) FROM public.user_agent_history") == [
        (writers, writers)
    ]
    assert Runner(database).verify() == []


def test_months_are_whole_utc_months(database: str) -> None:
    with psycopg.connect(database, autocommit=True, options="-c timezone=Asia/Tokyo") as connection:
        for day in (date(2031, 12, 31), date(2031, 12, 1), date(2032, 2, 29)):
            connection.execute("SELECT public.user_agent_history_ensure_month(%s)", [day])
    bounds = """
        SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid), c.relrowsecurity, c.relacl::text LIKE '%anon%'
          FROM pg_class c WHERE c.relname LIKE 'user_agent_history_203___' AND c.relkind = 'r' ORDER BY 1
    """
    with psycopg.connect(database, options="-c timezone=UTC") as connection:
        found = connection.execute(bounds.encode()).fetchall()
    assert found == [
        (
            f"user_agent_history_{name}",
            f"FOR VALUES FROM ('{start} 00:00:00+00') TO ('{end} 00:00:00+00')",
            True,
            False,
        )
        for name, start, end in (("203112", "2031-12-01", "2032-01-01"), ("203202", "2032-02-01", "2032-03-01"))
    ]


def test_down_and_up_keep_audit_trail(database: str, users: Users) -> None:
    run(database, "UPDATE public.user_agents SET notes = 'before'")
    whole = "SELECT h::text FROM public.user_agent_history AS h ORDER BY id"
    before: list[tuple[Any, ...]] = run(database, whole)
    at_4 = schema(database)
    runner = Runner(database)
    for version in ("3.0.0", "2.0.0"):
        runner.down(version)
        kept = "has_table_privilege(r, 'public.user_agent_history_kept_4_0_0', 'SELECT')"
        roles = ["anon", "authenticated", "service_role"]
        assert run(database, f"SELECT {kept} FROM unnest(%s::text[]) AS r", roles) == [(False,)] * 3
        runner.up()
        assert runner.verify() == []
        assert schema(database) == at_4
        assert run(database, whole) == before
    run(database, "UPDATE public.user_agents SET notes = 'after'")
    assert len(run(database, whole)) == len(before) + 1
    with session_as(database, "authenticated", users.ann) as session:
        assert len(session.execute(whole.encode()).fetchall()) == len(before) + 1
    runner.down(EMPTY)
    runner.up()
    assert len(run(database, whole)) == len(before) + 1
