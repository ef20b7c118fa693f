"""Dumps and restores: the commands of docs/backup.md as they are written, and what is counted afterwards.

The target is a database of the same server, or of the newest PostgreSQL, whose cluster begins without our roles.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.documents import blocks
from tests.integration.database import run, schema
from tests.integration.shell import Shell
from tests.integration.users import add_users
from tests.servers import FAST_POSTGRES
from usage_worker.local import EmbeddedPostgres
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import Runner
from usage_worker.migrate.repair import repair
from usage_worker.service.resources import Resources
from usage_worker.settings import Settings
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.integration.conftest import IngestHarness
    from tests.servers import Postgres

TABLES = """
    SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
        AND NOT relispartition
"""
DROPPED_BY_CASCADE = {
    *("user_agents_with_details", "user_favorite_agents", "user_popular_agents", "user_recent_agents"),
    *("user_agent_analytics", "user_agent_analytics_own", "user_agents_shared_with_me"),
}


def commands(section: str, block: int = 0) -> str:
    return blocks("backup.md", "sh", section)[block]


def events(harness: IngestHarness, agents: slice) -> list[dict[str, Any]]:
    """Two uses of each of twenty pairs, one yesterday and one some days before."""
    # At noon: events some seconds earlier are of the same day.
    yesterday = datetime.combine(datetime.now(UTC) - timedelta(days=1), time(12), UTC)
    return [
        {
            "event_id": uuid4(),
            "occurred_at": yesterday - timedelta(days=days, seconds=number),
            "user_id": user,
            "agent_id": harness.agents[agents][number % 2],
            "input_tokens": 7,
            "cost_usd": "0.25",
            "response_time_ms": 100,
            "conversation_id": uuid4(),
        }
        for number, user in enumerate(harness.users)
        for days in (0, 1 + number % 3)
    ]


def again(harness: IngestHarness) -> list[dict[str, Any]]:
    """Events of the pairs of `sent` and of other ones."""
    return events(harness, slice(2)) + events(harness, slice(1, 3))


def count_again(harness: IngestHarness) -> list[dict[str, Any]]:
    """Count what happens after a backup."""
    later = again(harness)
    harness.publish(*later)
    harness.flush()
    return later


@pytest.fixture
def sent(harness: IngestHarness, database: str) -> list[dict[str, Any]]:
    """Count events, and add what else a database has: shares, an expired one too, a history, and dead letters."""
    sent = events(harness, slice(2))
    harness.publish(*sent)
    harness.xadd(b"[{]")
    harness.flush()
    people = add_users(database)
    run(
        database,
        "INSERT INTO user_agent_shares (user_agent_id, shared_with_user, permission, expires_at)"
        " VALUES (%s, %s, 'edit', now() + interval '1 hour')",
        *(people.row, people.dan),
    )
    run(
        database,
        "SET session_replication_role = replica;"
        " UPDATE user_agent_shares SET expires_at = now() - interval '1 day' WHERE expires_at IS NOT NULL",
    )
    run(database, "UPDATE user_agents SET custom_name = 'mine' WHERE usage_count > 0")
    run(
        database,
        "SELECT user_agent_history_ensure_month(d), agent_usage_hourly_ensure_month(d)"
        " FROM (SELECT current_date - 40) AS older (d)",
    )
    return sent


@pytest.fixture
def newest(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(server_folder / "newest", FAST_POSTGRES) as server:
        yield server


@pytest.fixture
def restored(harness: IngestHarness) -> Iterator[Callable[[str], IngestHarness]]:
    """Return a function that makes the harness of a restored database."""
    opened: list[Resources] = []

    def make(url: str) -> IngestHarness:
        opened.append(Resources(Settings(DATABASE_URL=url, REDIS_URL=harness.resources.settings.redis_url)))
        return replace(harness, resources=opened[-1], worker=opened[-1])

    yield make
    for resources in opened:
        resources.close()


def contents(url: str) -> dict[str, Any]:
    """Return the number of rows of every table, and all shares."""
    tables = [row[0] for row in run(url, TABLES)]
    rows = {table: run(url, f'SELECT count(*) FROM public."{table}"')[0][0] for table in tables}
    return rows | {"shares": run(url, "SELECT * FROM user_agent_shares ORDER BY id")}


def assert_counts_once(harness: IngestHarness, known: list[dict[str, Any]], lost: list[dict[str, Any]]) -> None:
    """Assert that the database is consistent, tells lost events from known ones, and continues to count."""
    store, settings = harness.resources.store, harness.resources.settings
    report = reconcile(store, settings)
    assert report.checked > 0
    assert report.differences == []
    harness.publish(*known, *lost, counted=False)
    assert harness.flush() == Intake(accepted=len(known) + len(lost), applied=len(lost), duplicate=len(known))
    # A dead letter and a line of the history take numbers from sequences.
    harness.xadd(b"[{]")
    run(str(settings.database_url), "UPDATE user_agents SET is_favorite = NOT is_favorite")
    later = events(harness, slice(3, 5))
    harness.publish(*later)
    assert harness.flush() == Intake(accepted=len(later) + 1, applied=len(later), quarantined=1)
    harness.check()
    ahead = settings.model_copy(update={"partitions_ahead_days": settings.partitions_ahead_days + 1})
    made = manage_partitions(store, ahead)
    assert made.created
    assert not made.failed


def test_whole_database_into_the_newest_server(
    *,
    harness: IngestHarness,
    sent: list[dict[str, Any]],
    database: str,
    postgres: Postgres,
    newest: EmbeddedPostgres,
    restored: Callable[[str], IngestHarness],
    tmp_path: Path,
) -> None:
    url = newest.ensure_database("restored")
    before = contents(database)
    shell = Shell(postgres.bin_dir, tmp_path, DATABASE_URL=database, RESTORED_URL=url)
    printed = shell.execute(commands("Backup and restore"))
    assert printed == blocks("backup.md", "text", "Backup and restore")[0]
    assert contents(url) == before | {"usage_task_runs": before["usage_task_runs"] + 1}
    assert schema(url) == schema(database)
    lost = again(harness)
    harness.publish(*lost)
    harness.flush()
    assert_counts_once(restored(url), sent, lost)


def test_custom_format_into_the_same_server(
    *,
    sent: list[dict[str, Any]],
    database: str,
    empty_database: str,
    postgres: Postgres,
    restored: Callable[[str], IngestHarness],
    tmp_path: Path,
) -> None:
    shell = Shell(postgres.bin_dir, tmp_path, DATABASE_URL=database, RESTORED_URL=empty_database)
    shell.execute(commands("Whole database"))
    assert schema(empty_database) == schema(database)
    assert Runner(empty_database).verify() == []
    assert contents(empty_database) == contents(database)
    assert_counts_once(restored(empty_database), sent, [])


def test_dump_without_grants_lacks_only_grants(database: str, empty_database: str, postgres: Postgres) -> None:
    dump = [f"{postgres.bin_dir}/pg_dump", "--no-owner", "--no-acl", database]
    psql = [f"{postgres.bin_dir}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", empty_database]
    written = subprocess.run(dump, capture_output=True, check=True).stdout
    subprocess.run(psql, input=written, capture_output=True, check=True)
    assert {deviation.kind for deviation in Runner(empty_database).verify()} == {"grant"}
    assert repair(empty_database).left == []
    assert schema(empty_database) == schema(database)


def test_rows_of_one_table(
    *,
    harness: IngestHarness,
    sent: list[dict[str, Any]],
    database: str,
    postgres: Postgres,
    tmp_path: Path,
) -> None:
    shell = Shell(postgres.bin_dir, tmp_path, DATABASE_URL=database)
    shell.execute(commands("One table", 0))
    later = count_again(harness)
    run(database, "UPDATE user_agents SET usage_count = 0, custom_name = 'broken'")
    before = contents(database)
    assert "0 left" in shell.execute(commands("One table", 1))
    assert Runner(database).verify() == []
    assert contents(database)["shares"] == before["shares"]
    assert run(database, "SELECT DISTINCT custom_name FROM user_agents WHERE usage_count > 2") == [("mine",)]
    assert_counts_once(harness, sent + later, [])


def test_dropped_table(
    *,
    harness: IngestHarness,
    sent: list[dict[str, Any]],
    database: str,
    postgres: Postgres,
    tmp_path: Path,
) -> None:
    shell = Shell(postgres.bin_dir, tmp_path, DATABASE_URL=database)
    shell.execute(commands("One table", 2))
    later = count_again(harness)
    run(database, "DROP TABLE user_agents CASCADE")
    shell.execute(commands("One table", 3))
    missing = Runner(database).verify()
    assert {(it.object, it.problem) for it in missing if it.kind == "view"} == {
        (view, "missing") for view in DROPPED_BY_CASCADE
    }
    assert {it.kind for it in missing} == {"view", "function", "grant", "index"}
    assert repair(database).left == []
    assert Runner(database).verify() == []
    reconcile(harness.resources.store, harness.resources.settings, repair=True)
    assert_counts_once(harness, sent + later, [])


def test_data_only(
    *,
    sent: list[dict[str, Any]],
    database: str,
    empty_database: str,
    postgres: Postgres,
    restored: Callable[[str], IngestHarness],
    tmp_path: Path,
) -> None:
    Runner(empty_database).up()
    shell = Shell(postgres.bin_dir, tmp_path, DATABASE_URL=database, RESTORED_URL=empty_database)
    shell.execute(commands("Data only", 0))
    before = contents(database)
    assert "0 differences, 0 left" in shell.execute(commands("Data only", 1))
    after = contents(empty_database)
    assert after.pop("usage_task_runs") == before.pop("usage_task_runs") + 3
    assert (before.pop("agent_usage_hourly"), after.pop("agent_usage_hour_marks")) == (0, 0)
    assert before.pop("agent_usage_hour_marks") >= after.pop("agent_usage_hourly") > 0
    assert after == before
    assert run(empty_database, "SELECT count(*) FROM user_agent_analytics") == [(before["user_agents"],)]
    assert Runner(empty_database).verify() == []
    assert_counts_once(restored(empty_database), sent, [])


def test_older_redis_counts_nothing_again(harness: IngestHarness, redis_client: redis.Redis) -> None:
    harness.publish(*again(harness))
    shards = range(harness.resources.stream.shards)
    copies = {shard: redis_client.dump(harness.resources.stream.key(shard)) for shard in shards}
    harness.flush()
    for shard, copy in copies.items():
        redis_client.restore(harness.resources.stream.key(shard), 0, copy or b"", replace=True)
        assert harness.resources.stream.backlog(shard).entries > 0
    assert harness.flush() == Intake()
    harness.check()
