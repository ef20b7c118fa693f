"""The purge on a real database: what is deleted, what is kept, and that every event is in live or retired totals."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import PROGRAM, Cli
from tests.integration.database import run, with_option
from tests.integration.retired import expected_uses, repeated_calls, soft_delete, track, uses
from usage_worker.errors import BusyError, SettingsError
from usage_worker.maintenance.purge import CHUNK_ROWS, PURGE, PurgeReport, run_purge
from usage_worker.maintenance.purge import purge as purge_rows
from usage_worker.maintenance.reconcile import RECONCILE, reconcile
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.purge import purge_blocks
from usage_worker.store.task_runs import last_runs, sole_transaction
from usage_worker.testing import Population, generate_usage
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

MONTH = timedelta(days=30)
LEFT = "SELECT notes FROM public.user_agents ORDER BY notes"
# In the order in which batches lock rows: PostgreSQL may end this client instead of a batch, and it does not retry.
DELETE_IN_KEY_ORDER = """
    WITH chosen AS (
        SELECT id FROM public.user_agents WHERE user_id = ANY (%s) ORDER BY user_id, agent_id FOR NO KEY UPDATE
    )
    UPDATE public.user_agents SET deleted_at = now() - interval '40 days' WHERE id IN (SELECT id FROM chosen)
"""
SEED = """
    INSERT INTO auth.users (email) SELECT 'u' FROM generate_series(1, %s);
    INSERT INTO public.agents (name) VALUES ('a');
    INSERT INTO public.user_agents (user_id, agent_id, deleted_at)
    SELECT u.id, a.id, now() - interval '40 days' FROM auth.users u, public.agents a
"""


def purge(store: Store, **options: Any) -> PurgeReport:
    return purge_rows(store, MONTH, **options)


def seed(url: str, rows: int) -> None:
    run(url, SEED.replace("%s", str(rows)))


def pairs(url: str) -> list[tuple[Any, Any]]:
    return run(url, "SELECT user_id, agent_id FROM public.user_agents ORDER BY user_id, agent_id")


def events(harness: IngestHarness, count: int, seed: int) -> list[dict[str, Any]]:
    now, chosen = datetime.now(UTC), random.Random(seed)
    return [
        fields | {"event_id": uuid4(), "occurred_at": now - timedelta(seconds=chosen.randrange(2 * 86_400))}
        for fields in generate_usage(Population(harness.users, harness.agents), count, "uniform", seed)
    ]


def test_only_rows_past_purge_age_are_deleted(database: str, store: Store) -> None:
    seed(database, 5)
    rows = {"alive": "NULL, NULL", "archived": "NULL, now() - interval '1 year'", "late": "now(), NULL"}
    rows |= {"gone": "now() - interval '31 days', NULL", "oldest": "now() - interval '2 years', NULL"}
    for (user_id, _), (notes, values) in zip(pairs(database), rows.items(), strict=True):
        statement = (
            f"UPDATE public.user_agents SET notes = %s, (deleted_at, archived_at) = ({values}) WHERE user_id = %s"
        )
        run(database, statement, notes, user_id)
    due = purge(store, dry_run=True)
    assert (due.purged, due.remaining) == (0, 2)
    assert due.oldest_remaining_seconds == pytest.approx(2 * 365.25 * 86_400, rel=0.01)
    assert purge(store).as_dict() == PurgeReport(purged=2).as_dict()
    assert run(database, LEFT) == [("alive",), ("archived",), ("late",)]


def test_child_rows_are_deleted_and_retained_days_retired(database: str, store: Store) -> None:
    seed(database, 2)
    (user_id, agent_id), (other, _) = pairs(database)
    for _ in range(3):
        track(database, user_id, agent_id)
    track(database, other, agent_id)
    run(database, "UPDATE public.user_agents SET deleted_at = NULL WHERE user_id = %s", other)
    run(database, "INSERT INTO public.user_agent_conversations SELECT user_id, agent_id, id FROM public.user_agents")
    opening = "INSERT INTO public.usage_daily (user_id, agent_id, day, usage_count) VALUES (%s, %s, '1970-01-01', 9)"
    run(database, opening, user_id, agent_id)
    assert purge(store).purged == 1
    for table in ("usage_daily", "user_agent_conversations"):
        assert run(database, f"SELECT user_id FROM public.{table}") == [(other,)]
    past = "SELECT user_id, usage_count, total_tokens_used, response_time_samples FROM public.usage_retired_daily"
    assert run(database, past) == [(user_id, 3, 21, 3)]


def test_repeated_purges_add_up_in_one_retired_row(database: str, store: Store) -> None:
    seed(database, 1)
    ((user_id, agent_id),) = pairs(database)
    for number in range(3):
        for _ in range(number + 1):
            track(database, user_id, agent_id)
        soft_delete(database, user_id, agent_id)
        assert purge(store).purged == 1
    track(database, user_id, agent_id)
    assert run(database, "SELECT usage_count, deleted_at FROM public.user_agents") == [(1, None)]
    assert run(database, "SELECT usage_count FROM public.usage_retired_daily") == [(6,)]


def test_audit_trail_keeps_actor_and_time(database: str, store: Store) -> None:
    seed(database, 1)
    ((user_id, agent_id),) = pairs(database)
    trail = "SELECT action, user_id, agent_id, actor_role = current_user, now() - created_at < '1 minute'"
    run(database, "DELETE FROM public.user_agent_history")
    purge(store)
    found = run(database, f"{trail} FROM public.user_agent_history")
    assert found == [("purge", user_id, agent_id, True, True)]


def test_retired_totals_older_than_ledger_are_deleted(database: str, store: Store) -> None:
    seed(database, 1)
    ((user_id, agent_id),) = pairs(database)
    run(database, "SELECT public.usage_events_ensure_day(current_date - 60)")
    for age in (59, 60, 61):
        past = "INSERT INTO public.usage_retired_daily (user_id, agent_id, day) VALUES (%s, %s, current_date - %s::int)"
        run(database, past, user_id, agent_id, age)
    assert purge(store).deleted_retired_days == 1
    assert run(database, "SELECT current_date - day FROM public.usage_retired_daily ORDER BY 1") == [(59,), (60,)]


@pytest.mark.parametrize("plan", ["", "enable_hashjoin enable_mergejoin enable_material enable_bitmapscan"])
def test_chunk_size_does_not_depend_on_query_plan(database: str, plan: str) -> None:
    seed(database, 2 * CHUNK_ROWS + 1)
    for setting in plan.split():
        run(database, f"ALTER DATABASE {database.rpartition('/')[2].partition('?')[0]} SET {setting} = off")
    progress: list[tuple[int, int | None]] = []
    with Store(database) as store:
        assert purge(store, on_progress=lambda done, of: progress.append((done, of))).purged == 2 * CHUNK_ROWS + 1
    due = 2 * CHUNK_ROWS + 1
    assert progress == [(CHUNK_ROWS, due), (2 * CHUNK_ROWS, due), (due, due)]


@pytest.mark.parametrize("age", ["interval '40 days'", "(40 + random()) * interval '1 day'"])
def test_pass_has_the_oldest_rows_in_the_order_of_the_table(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    monkeypatch.setattr("usage_worker.store.purge.MOST_ROWS", 10)
    seed(database, 30)
    run(database, f"UPDATE public.user_agents SET deleted_at = now() - {age}")
    blocks = purge_blocks(store, MONTH, 4)
    places = [row for block in blocks for row in run(database, "SELECT unnest(%s::tid[])::text", block)]
    assert [block.count("(") for block in blocks] == [4, 4, 2]
    oldest = "SELECT ctid FROM public.user_agents ORDER BY deleted_at, ctid LIMIT 10"
    assert places == run(database, f"SELECT ctid::text FROM ({oldest}) AS oldest ORDER BY ctid")
    assert purge(store).purged == 30


def test_interrupted_run_says_how_many_rows_are_left(database: str, store: Store) -> None:
    seed(database, 1_200)
    report = PurgeReport()

    def interrupt(purged: int, due: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purge(store, report=report, on_progress=interrupt)
    assert report.purged > 0
    assert report.purged + report.remaining == 1_200
    assert report.oldest_remaining_seconds


def test_stops_when_time_budget_is_spent(database: str, store: Store) -> None:
    seed(database, 10)
    report = purge(store, budget=0)
    assert (report.purged, report.remaining) == (0, 10)
    assert report.oldest_remaining_seconds == pytest.approx(40 * 86_400, abs=60)


def test_locked_row_is_left_for_next_run(database: str, store: Store) -> None:
    seed(database, 3)
    row_id = run(database, "SELECT id FROM public.user_agents LIMIT 1")[0][0]
    with psycopg.connect(database) as holder:
        holder.execute("UPDATE public.user_agents SET deleted_at = NULL WHERE id = %s", [row_id])
        report = purge(store)
        assert (report.purged, report.remaining) == (2, 1)
    assert purge(store).as_dict() == PurgeReport().as_dict()
    assert run(database, "SELECT id FROM public.user_agents") == [(row_id,)]


def test_row_restored_in_time_is_kept(database: str, store: Store) -> None:
    seed(database, 4_000)
    waiting = [row[0] for row in run(database, "SELECT id FROM public.user_agents ORDER BY random()")]
    restored: list[Any] = []
    restore = "UPDATE public.user_agents SET deleted_at = NULL WHERE id = %s AND deleted_at IS NOT NULL RETURNING id"
    with psycopg.connect(database, autocommit=True) as client:

        def restore_one() -> None:
            if waiting:
                restored.extend(client.execute(restore, [waiting.pop()]).fetchall())

        with repeated_calls(restore_one):
            eventually(lambda: len(restored) > 20)
            report = purge(store)
    assert 20 < len(restored) < 4_000
    while purge(store).purged:
        pass
    assert report.purged > 0
    left = run(database, "SELECT id FROM public.user_agents")
    assert set(left) >= set(restored)
    assert len(left) == len(restored)


def test_concurrent_purges(database: str, store: Store) -> None:
    seed(database, 3 * CHUNK_ROWS)
    with Store(database) as other, repeated_calls(lambda: purge(other, wait_timeout=30)):
        purge(store, wait_timeout=30)
        eventually(lambda: not run(database, LEFT))
    seed(database, 1)
    with Store(database) as other, sole_transaction(other, PURGE), pytest.raises(BusyError):
        purge(store)


def test_purge_needs_owner(database: str) -> None:
    seed(database, 1)
    run(database, "GRANT SELECT, DELETE ON ALL TABLES IN SCHEMA public TO authenticated")
    refused = pytest.raises(SettingsError, match="names authenticated, which does not own")
    with Store(with_option(database, "role=authenticated")) as under_rls, refused:
        run_purge(under_rls, Settings())
    assert len(pairs(database)) == 1


def test_every_event_is_in_live_or_retired_totals(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    """Pairs are deleted and purged at full speed while the stream and SQL count for them."""
    url = harness.resources.settings.database_url
    accepted: list[dict[str, Any]] = []
    tracked: list[tuple[Any, Any]] = []
    purged: list[int] = []
    chosen = random.Random(5)
    others = make_resources(), make_resources()

    def count_shard(shard: int) -> Callable[[], object]:
        return lambda: others[shard].flusher.flush(shard, 5)

    def publish() -> None:
        more = events(harness, 500, len(accepted))
        harness.publish(*more, counted=False)
        accepted.extend(more)

    def track_one() -> None:
        pair = chosen.choice(harness.users), chosen.choice(harness.agents)
        track(url, *pair)
        tracked.append(pair)

    with Store(url) as store, psycopg.connect(url, autocommit=True) as client:

        def purge_some() -> None:
            client.execute(DELETE_IN_KEY_ORDER, [chosen.sample(harness.users, 5)])
            purged.append(purge(store).purged)

        with repeated_calls(publish, count_shard(0), count_shard(1), track_one, purge_some):
            eventually(lambda: len(accepted) >= 5_000 and sum(purged) >= 200, 60)
        eventually(lambda: not harness.flush().accepted)
        assert reconcile(store, harness.resources.settings).differences == []
    expected = expected_uses(accepted)
    expected.update(tracked)
    assert uses(url) == expected
    assert harness.resources.store.rows(testing_query("unbalanced")) == []
    assert harness.resources.store.intake_totals().applied == len(accepted)


def test_task_runs_record_their_figures(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    from usage_worker.celery import app  # noqa: PLC0415 - reads the settings

    monkeypatch.setitem(app.__dict__, "usage_resources", harness.resources)
    track(harness.resources.settings.database_url, harness.users[0], harness.agents[0])
    soft_delete(harness.resources.settings.database_url, harness.users[0], harness.agents[0])
    for task, figure in (PURGE, ("purged", 1)), (RECONCILE, ("different", 0)):
        figures = app.tasks[task].apply().get()
        assert figure in figures.items()
        assert figure in last_runs(harness.resources.store)[task].report.items()


def test_command_prints_figures(database: str, redis_url: str, tmp_path: Path) -> None:
    seed(database, 3)
    run(
        database,
        "UPDATE public.user_agents SET deleted_at = now() - interval '2 hours' WHERE id = %s",
        *_first(database),
    )
    cli = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)
    none = {"oldest_remaining_seconds": None, "expired_shares": 0, "deleted_retired_days": 0}
    dry = json.loads(cli.run("run", "purge", "--dry-run", "--json").stdout)
    assert (dry["purged"], dry["remaining"], round(dry["oldest_remaining_seconds"] / 86_400)) == (0, 2, 40)
    assert cli.run("run", "purge", "--older-than", "50d").stdout == "0 purged, 0 due\n"
    assert json.loads(cli.run("run", "purge", "--json").stdout) == {"purged": 2, "remaining": 0} | none
    assert cli.run("run", "purge", "--dry-run", "--older-than", "90m").stdout.startswith(
        "0 purged, 1 due, the oldest deleted 2:0"
    )
    assert (
        json.loads(cli.run("run", "purge", "--json", "--older-than", "1h").stdout)
        == {"purged": 1, "remaining": 0} | none
    )
    assert "--older-than" in cli.error_line("run purge --older-than soon")
    seed(database, 1)
    before = pairs(database)
    with psycopg.connect(database) as holder:
        # A lock on the conversations makes the purge wait; then it is interrupted.
        holder.execute("LOCK TABLE public.user_agent_conversations")
        command = [PROGRAM, "run", "purge", "--json"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            eventually(lambda: run(database, "SELECT 1 FROM pg_locks WHERE NOT granted"))
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=120)
    report = json.loads(output)
    assert (process.returncode, report["purged"], report["interrupted"]) == (130, 0, True), errors
    assert pairs(database) == before
    with Store(database) as store:
        assert last_runs(store)[PURGE].report["purged"] == 1


def _first(url: str) -> list[Any]:
    return [run(url, "SELECT id FROM public.user_agents LIMIT 1")[0][0]]
