"""Down and up again: totals are kept, and changes made in between become opening balances or retired rows."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import copy_up_to, interrupted, run, schema, traffic
from tests.integration.interruptions import Interruptions
from tests.integration.ledger import days
from tests.integration.retired import soft_delete
from usage_worker.maintenance.purge import purge
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import EMPTY, Kept, Runner, discover
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness

NOW = datetime.now(UTC)
# The migrations from the ledger to the intake totals.
FROM_LEDGER = [
    it for it in discover() if it.version == "4.0.0" and it.name.startswith("usage_") and it.name != "usage_maintenance"
]
KEPT = (
    *(
        "usage_events",
        "usage_daily",
        "usage_retired_daily",
        "user_agent_conversations",
        "usage_entries",
        "usage_intake",
    ),
    *("usage_dead_letters", "usage_task_runs", "user_agent_history", "user_agent_shares", "user_agents"),
)
TRACK = "SELECT public.track_agent_usage(%s, %s, true, 7, 0.25, %s)"


def event(user: UUID, agent: UUID, **fields: Any) -> dict[str, Any]:
    when = NOW - timedelta(seconds=random.randrange(3 * 86_400))
    return {"event_id": uuid4(), "occurred_at": when, "user_id": user, "agent_id": agent, **fields}


def events_of_all_kinds(harness: IngestHarness) -> list[dict[str, Any]]:
    """Return two events of each pair, with latencies, conversations and ratings."""
    return [
        event(user, agent, input_tokens=11, cost_usd="0.25", conversation_id=uuid4(), response_time_ms=100 * number)
        if number % 2
        else event(user, agent, type="rating", rating=4)
        for user in harness.users[:6]
        for agent in harness.agents[:3]
        for number in range(4)
    ]


def count_some(harness: IngestHarness) -> list[dict[str, Any]]:
    """Count events, quarantine some, and purge and reuse a pair; return the counted events."""
    published = events_of_all_kinds(harness)
    harness.publish(*published, counted=False)
    harness.xadd(b"[{]")
    harness.xadd(json.dumps([{"event_id": str(uuid4())}]))
    harness.flush()
    url = harness.resources.settings.database_url
    soft_delete(str(url), harness.users[0], harness.agents[0])
    purge(harness.resources.store, timedelta(days=30))
    harness.publish(event(harness.users[0], harness.agents[0]), counted=False)
    harness.flush()
    run(str(url), "UPDATE public.user_agents SET notes = 'mine', is_shared = true, shared_with = ARRAY[user_id]")
    run(str(url), "SELECT public.track_agent_usage(%s, %s)", harness.users[1], harness.agents[1])
    run(str(url), "INSERT INTO public.usage_task_runs VALUES ('purge', now(), 1, '{}')")
    return published


def values(url: str, *tables: str) -> dict[str, list[Any]]:
    """Return every row as text, without updated_at, which the migrations change."""
    read = "SELECT (to_jsonb(t) - 'updated_at')::text FROM public.{} AS t ORDER BY 1"
    return {table: run(url, read.format(table)) for table in tables or KEPT}


def check_balanced_and_exact(harness: IngestHarness) -> None:
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []
    assert harness.resources.store.rows(testing_query("unbalanced")) == []


@pytest.mark.parametrize("version", ["3.0.0", EMPTY])
def test_down_and_up_lose_nothing(harness: IngestHarness, database: str, cli: Cli, version: str) -> None:
    published = count_some(harness)
    # A partition as a killed run leaves it: detached, marked, not dropped.
    (going,) = days(7)
    run(database, f"ALTER TABLE usage_events DETACH PARTITION {going}")
    run(database, f"COMMENT ON TABLE {going} IS 'dropped by usage-worker'")
    at_4, before = schema(database), values(database)
    assert all(before.values()), before
    runner = Runner(database)
    runner.down(version)
    readable = """
        SELECT DISTINCT c.relname FROM pg_class AS c, unnest(ARRAY['anon', 'authenticated', 'service_role']) AS role
         WHERE c.relname LIKE '%kept%' AND c.relkind IN ('r', 'p') AND has_table_privilege(role, c.oid, 'SELECT')
    """
    assert run(database, readable) == []
    runner.up()
    assert runner.verify() == []
    assert schema(database) == at_4
    assert values(database) == before
    assert run(database, "SELECT relname FROM pg_class WHERE relname LIKE '%kept%'") == []
    done = cli.run("run", "reconcile")
    assert (done.returncode, done.stdout.partition(" compared: ")[2]) == (0, "0 differences, 0 left\n")
    harness.publish(*published, counted=False)
    intake = harness.flush()
    assert (intake.accepted, intake.applied, intake.duplicate) == (len(published), 0, len(published))
    assert len(harness.dead_letters()) == 2


def test_changes_between_down_and_up_are_recorded(harness: IngestHarness, database: str) -> None:
    count_some(harness)
    pairs = [(user, agent) for user in harness.users[1:6] for agent in harness.agents[:3]]
    tracked, reduced, zeroed, deleted, recreated, slower, unused, moved, *_ = pairs
    row = "(user_id, agent_id) = (%s, %s)"
    runner = Runner(database)
    runner.down("3.0.0")
    run(database, TRACK, *tracked, 900)
    run(database, TRACK, *tracked, None)
    run(database, f"UPDATE user_agents SET usage_count = 1, total_tokens_used = 5 WHERE {row}", *reduced)
    zero = "usage_count = 0, message_count = 0, conversation_count = 0, success_count = 0, error_count = 0"
    run(database, f"UPDATE user_agents SET {zero}, total_tokens_used = 0, total_cost_usd = 0 WHERE {row}", *zeroed)
    run(database, f"DELETE FROM user_agents WHERE {row}", *deleted)
    run(database, f"DELETE FROM user_agents WHERE {row}", *recreated)
    run(database, TRACK, *recreated, 40)
    run(database, f"UPDATE user_agents SET avg_response_time_ms = 5000 WHERE {row}", *slower)
    run(database, f"UPDATE user_agents SET agent_id = %s WHERE {row}", harness.agents[4], *moved)
    new_pair = (harness.users[7], harness.agents[4])
    run(database, TRACK, *new_pair, 70)
    counters = (
        "SELECT id, usage_count, message_count, conversation_count, success_count, total_tokens_used, total_cost_usd,"
        " avg_response_time_ms, last_used_at FROM public.user_agents ORDER BY id"
    )
    before = run(database, counters)
    runner.up()
    assert run(database, counters) == before, "4.0.0 shows the counters of 3.0.0"
    check_balanced_and_exact(harness)
    figures = "SELECT usage_count, total_tokens_used, response_time_samples FROM public.usage_daily"
    opening = f"{figures} WHERE {row} AND day = '1970-01-01'"
    assert run(database, opening, *tracked) == [(2, 14, 2)]
    assert run(database, opening, *reduced) == [(-2, -17, 0)]
    assert run(database, opening, *recreated) == [(1, 7, 1)]
    assert run(database, opening, *new_pair) == [(1, 7, 1)]
    assert run(database, opening, *unused) == []
    for pair in (deleted, recreated, moved):
        assert run(database, f"SELECT sum(usage_count)::int FROM usage_retired_daily WHERE {row}", *pair) == [(2,)]
        assert run(database, f"SELECT count(*) FROM user_agent_conversations WHERE {row}", *pair) == [(0,)]
    harness.publish(event(*tracked, response_time_ms=7), event(*recreated), event(*deleted), counted=False)
    harness.flush()
    check_balanced_and_exact(harness)


@pytest.mark.parametrize("direction", ["down", "up"])
def test_resumes_after_any_interruption(harness: IngestHarness, database: str, tmp_path: Path, direction: str) -> None:
    """Migrations in one transaction are stopped at one place only, since each stop is rolled back to the same state."""
    count_some(harness)
    files = copy_up_to(FROM_LEDGER[-1], tmp_path / "migrations")
    whole, runner = Runner(database), Runner(database, files)
    tables = [table for table in KEPT if table.startswith("usage_") and table != "usage_task_runs"]
    whole.down("3.0.0")
    at_3 = schema(database)
    runner.up()

    def state() -> object:
        return schema(database), values(database, *tables, "user_agents")

    interruptions = Interruptions(database, files, "3.0.0", at_3, state, state())
    if direction == "up":
        runner.down("3.0.0")
    for migration in FROM_LEDGER:
        text = (files / f"{migration.label}.{direction}.sql").read_text()
        stops = [broken for _, broken in interrupted(text)]
        interruptions.check(migration, direction, stops if not migration.transactional else stops[-1:])
    whole.up()
    check_balanced_and_exact(harness)


def test_clients_keep_counting_during_down_and_up(harness: IngestHarness, database: str) -> None:
    harness.publish(*events_of_all_kinds(harness), counted=False)
    harness.flush()
    pairs = [(user, agent) for user in harness.users[:4] for agent in harness.agents[:2]]
    uses = "SELECT coalesce(sum(usage_count), 0) FROM public.user_agents"
    before = run(database, uses)[0][0]
    made = [0, 0, 0]

    def client(number: int) -> Callable[[threading.Event], None]:
        def track(over: threading.Event) -> None:
            chosen = random.Random(number)
            with psycopg.connect(database, autocommit=True) as connection:
                while not over.is_set():
                    try:
                        connection.execute(TRACK, [*chosen.choice(pairs), chosen.randrange(1000)])
                    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
                        # A call fails as a whole if its columns or tables are set aside while it runs.
                        continue
                    made[number] += 1

        return track

    def all_progressed() -> None:
        seen = list(made)
        eventually(lambda: all(now > then + 5 for now, then in zip(made, seen, strict=True)))

    runner = Runner(database)
    with traffic(*map(client, range(len(made)))):
        for _ in range(2):
            all_progressed()
            runner.down("3.0.0")
            all_progressed()
            runner.up()
        all_progressed()
    assert run(database, uses)[0][0] == before + sum(made)
    check_balanced_and_exact(harness)


def test_down_asks_with_row_counts(harness: IngestHarness, database: str, cli: Cli) -> None:
    count_some(harness)
    journal = len(values(database, "usage_events")["usage_events"])
    figures = f"{journal} rows of usage_events"
    error_line, unknown = cli.error_lines("migrate down --to 3.0.0", "migrate down --to 9.9.9")
    assert figures in error_line
    assert "2 rows of usage_dead_letters" in error_line
    assert "rows of user_agents (new columns)" in error_line
    assert "--yes" in error_line
    assert "no version 9.9.9" in unknown
    assert Runner(database).status().version == "5.2.0"
    code, text = cli.on_terminal("n\n", "migrate", "down", "--to", "3.0.0")
    assert (code, figures in text, "nothing was changed" in text) == (1, True, True)
    assert Runner(database).status().version == "5.2.0"
    code, text = cli.on_terminal("y\n", "migrate", "down", "--to", "3.0.0")
    assert code == 0, text
    assert Runner(database).status().version == "3.0.0"
    assert Runner(database).kept_by_down("3.0.0") is None, "there is nothing to ask"
    done = cli.run("migrate", "down", "--to", "2.0.0", "--yes", "--json")
    assert json.loads(done.stdout)["version"] == "2.0.0"
    whole = Runner(database).kept_by_down("1.0.0")
    assert whole == [Kept("user_agents", len(harness.users[:6]) * 3, False)]
