"""NULL counts as the default of its column: clients of 2.0.0 and 3.0.0 may write it everywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import uuid4

from tests.integration.database import run
from tests.integration.test_reconcile import check, traffic
from tests.integration.users import add_users
from usage_worker.migrate import Runner
from usage_worker.store.connection import Store
from usage_worker.store.queries import query as store_query
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from tests.integration.conftest import IngestHarness
    from tests.integration.users import Users

TRACK = "SELECT public.track_agent_usage(%s, %s, p_tokens_used => 5, p_cost_usd => 0.5, p_response_time_ms => 100)"
VIEWS = ("user_agents_with_details", "user_favorite_agents", "user_popular_agents", "user_recent_agents")
FIGURES = (
    "SELECT usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,"
    " avg_response_time_ms, quality_score FROM public.user_agents WHERE (user_id, agent_id) = (%s, %s)"
)


def null_everything(url: str) -> None:
    """Write NULL to every column that allows it, in every row."""
    columns = run(
        url,
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'public.user_agents'::regclass AND attnum > 0"
        " AND NOT attnotnull AND NOT attisdropped",
    )
    assert len(columns) >= 52
    run(url, f"UPDATE public.user_agents SET {', '.join(f'{name} = NULL' for (name,) in columns)}")


def test_ingest_and_calls_count_from_null(harness: IngestHarness, database: str) -> None:
    user, agent = harness.users[0], harness.agents[0]
    run(
        database,
        "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s), (%s, %s)",
        user,
        agent,
        user,
        harness.agents[1],
    )
    null_everything(database)
    harness.publish(*traffic(harness, 200, 7))
    rating = {"type": "rating", "rating": 4, "event_id": uuid4(), "occurred_at": datetime.now(UTC)}
    harness.publish({**rating, "user_id": user, "agent_id": agent})
    harness.flush()
    harness.check()
    assert check(harness).differences == []
    null_everything(database)
    assert check(harness, repair=True).left == 0
    assert harness.resources.store.rows(testing_query("unbalanced")) == []
    assert check(harness).differences == []


def test_functions_and_views_read_null(database: str, users: Users) -> None:
    run(database, "UPDATE public.user_agents SET is_shared = NULL")
    assert run(database, "SELECT count(*) FROM public.user_agent_shares") == [(0,)]
    null_everything(database)
    pair = (users.ann, users.agent)
    run(database, TRACK, *pair)
    figures = (1, 1, 1, 0, 5, Decimal("0.5"), 100, Decimal("3.50"))
    assert run(database, FIGURES, *pair) == [figures]
    null_everything(database)
    run(database, "DELETE FROM public.usage_daily")
    share = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user) VALUES (%s, %s)"
    run(database, share, users.row, users.bob)
    for view in VIEWS:
        run(database, f"SELECT * FROM public.{view}")
    details = "SELECT usage_status, success_rate_percent FROM public.user_agents_with_details"
    assert run(database, details) == [("never_used", None)]
    with Store(database) as store:
        store.execute(store_query("analytics_refresh"), alone=True)
    assert run(database, "SELECT usage_count, total_cost_usd, user_rank FROM public.user_agent_analytics") == [
        (0, 0, 1)
    ]
    run(database, TRACK, *pair)
    assert run(database, FIGURES, *pair) == [figures]
    for function in ("soft_delete_user_agent", "restore_user_agent", "soft_delete_user_agent"):
        assert run(database, f"SELECT public.{function}(%s, %s)", *pair) == [(True,)]


def test_null_rows_survive_upgrade(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    users = add_users(empty_database)
    untouched = run(empty_database, "INSERT INTO public.agents (name) VALUES ('b') RETURNING id")[0][0]
    run(empty_database, "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s)", users.ann, untouched)
    null_everything(empty_database)
    run(empty_database, TRACK, users.ann, users.agent)
    run(
        empty_database,
        "UPDATE public.user_agents SET error_count = NULL, usage_count = 1 WHERE agent_id = %s",
        users.agent,
    )
    runner.up()
    assert runner.verify() == []
    with Store(empty_database) as store:
        assert store.rows(testing_query("unbalanced")) == []
    run(empty_database, TRACK, users.ann, untouched)
    run(empty_database, TRACK, users.ann, users.agent)
    figures = run(empty_database, FIGURES, users.ann, users.agent)
    assert figures == [(2, 2, 2, 0, 10, Decimal(1), 100, Decimal("3.50"))]
    null_everything(empty_database)
    runner.down("2.0.0")
    runner.up()
    assert runner.verify() == []
