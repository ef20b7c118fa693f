"""`usage-worker doctor`: its checks of PostgreSQL, each provoked."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.integration.commands import SECRET
from tests.integration.database import add_pair, run
from tests.servers import FAST_POSTGRES, InstalledPostgres
from tests.system.doctor import POSTGRESQL_CHECKS, Doctor, states, unanswered
from usage_worker.local import EmbeddedPostgres
from usage_worker.monitoring.doctor import vacuum

if TYPE_CHECKING:
    from pathlib import Path

# Counts 1,100 updates of one row, each in a transaction of its own, as batches do.
UPDATES = """
    DO $$ BEGIN
        FOR i IN 1..1100 LOOP UPDATE public.user_agents SET {column} = i; COMMIT; END LOOP;
    END $$
"""


def settle(url: str, *statements: str) -> None:
    """Execute the statements, and let the statistics count them now."""
    for statement in statements:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())
            connection.execute("SELECT pg_stat_force_next_flush()")


def test_role_that_counts(doctor: Doctor, database: str, ingest_url: str) -> None:
    assert doctor.said("database_role").startswith("ok: it owns the tables")
    doctor.set(DATABASE_URL=ingest_url)
    said = doctor.ask()
    assert said["database_role"].startswith("ok: it may count: for periodic tasks")
    assert unanswered(said, POSTGRESQL_CHECKS) <= {"definitions", "hot_updates", "old_snapshots", "postgresql_disk"}
    assert "run it with the owner's DATABASE_URL" in said["definitions"]
    assert "GRANT pg_read_all_stats" in said["old_snapshots"]
    doctor.set(USAGE_UNKNOWN="create")
    run(database, "REVOKE INSERT ON public.usage_events FROM usage_ingest")
    lacks = "fail: the role of DATABASE_URL lacks INSERT on usage_events, EXECUTE on usage_create_parents: "
    assert doctor.said("database_role").startswith(lacks)


def test_owner_that_may_not_create_partitions(
    doctor: Doctor, database: str, ingest_login: str, ingest_url: str
) -> None:
    """A member of the owner has its rights on tables, and of a superuser not what it may do without any."""
    doctor.set(DATABASE_URL=ingest_url)
    (owner,) = run(database, "SELECT current_user")[0]
    run(database, "REVOKE CREATE ON SCHEMA public FROM pg_database_owner, public")
    run(database, f"GRANT {owner} TO {ingest_login}")
    try:
        said = doctor.said("database_role")
    finally:
        run(database, f"REVOKE {owner} FROM {ingest_login}")
    assert said.startswith("fail: the role of DATABASE_URL lacks CREATE on schema public: ")


def test_definitions_that_differ(doctor: Doctor, database: str) -> None:
    assert doctor.said("definitions").startswith("ok: ")
    run(database, "ALTER TABLE public.user_agents SET (fillfactor = 90)")
    said = doctor.said("definitions")
    assert said.startswith("warn: not as the migrations made them: 1 object, ")
    assert "fillfactor" in said
    assert "migrate repair" in said


@pytest.mark.parametrize(
    ("before", "column", "state"),
    [
        ("CREATE INDEX own ON public.user_agents (total_tokens_used)", "total_tokens_used", "warn"),
        ("ALTER TABLE public.user_agents SET (fillfactor = 90)", "notes", "ok"),
    ],
)
def test_share_of_hot_updates(doctor: Doctor, database: str, before: str, column: str, state: str) -> None:
    add_pair(database)
    settle(database, before, UPDATES.format(column=column))
    said = doctor.said("hot_updates")
    assert said.startswith(f"{state}: ")
    assert "1,100 updates of user_agents" in said
    assert ("drop indexes of your own" in said) == (state == "warn")


def test_dead_rows(doctor: Doctor, database: str) -> None:
    add = """
        INSERT INTO public.usage_event_keys (key, occurred_at)
        SELECT gen_random_uuid(), now() FROM generate_series(1, 11000)
    """
    run(database, "ALTER TABLE public.usage_event_keys SET (autovacuum_enabled = off)")
    settle(database, add, "DELETE FROM public.usage_event_keys")
    said = doctor.ask()
    assert said["dead_rows"].startswith("warn: usage_event_keys has 11 k dead rows beside 0")
    assert said["autovacuum"].startswith("fail: cost limit 2000, ")
    assert "; it is switched off for usage_event_keys: " in said["autovacuum"]
    assert "RESET (autovacuum_enabled)" in said["autovacuum"]
    assert "too few to tell" in said["hot_updates"]


def test_invalid_index(doctor: Doctor, database: str) -> None:
    for _ in range(2):
        add_pair(database)
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(database, "CREATE UNIQUE INDEX CONCURRENTLY twice ON public.user_agents (status)")
    assert "warn: the index twice of user_agents is invalid" in doctor.said("invalid_indexes")


def test_what_holds_vacuum_back(doctor: Doctor, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuum, "OLD_SECONDS", 0.0)
    with psycopg.connect(database, application_name=f"report\x1b of {SECRET}") as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")
        said = doctor.said("old_snapshots")
        assert said.startswith(f"warn: pid {reader.info.backend_pid}, role ")
        assert "(idle in transaction) keeps dead rows" in said
        assert "\x1b" not in said
        reader.execute("PREPARE TRANSACTION 'doctor'")
    try:
        assert doctor.said("prepared_transactions").startswith("warn: the transaction 'doctor' of ")
    finally:
        run(database, "ROLLBACK PREPARED 'doctor'")


def test_table_that_somebody_holds(doctor: Doctor, database: str) -> None:
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE public.user_agents")
        said = doctor.ask()
    assert said["sizes"].startswith("unknown: another session holds a lock that a statement needs")
    assert unanswered(said, POSTGRESQL_CHECKS) == {"definitions", "sizes", "dead_rows", "hot_updates"}


def test_replication_slot_that_nobody_reads(doctor: Doctor, database: str) -> None:
    run(database, "SELECT pg_create_physical_replication_slot('usage_doctor', true)")
    try:
        said = doctor.ask()
    finally:
        run(database, "SELECT pg_drop_replication_slot('usage_doctor')")
    expected = "warn: nobody reads the replication slot usage_doctor (reserved), and it keeps "
    assert said["replication_slots"].startswith(expected)
    quiet = {"invalid_indexes", "old_snapshots", "prepared_transactions", "dead_rows"}
    assert set(states(said, quiet).values()) == {"ok"}


def test_server_with_few_connections_and_slow_autovacuum(
    doctor: Doctor, server_folder: Path, pytestconfig: pytest.Config
) -> None:
    programs, folder = pytestconfig.getoption("--postgres-bin"), server_folder / "doctor-postgres"
    slow = {"max_connections": "10", "autovacuum_vacuum_cost_limit": "200"}
    made = InstalledPostgres(programs, folder) if programs else EmbeddedPostgres(folder, FAST_POSTGRES)
    made.settings |= slow
    with made as server, ExitStack() as sessions:
        doctor.set(DATABASE_URL=server.url())
        said = doctor.ask()
        assert said["autovacuum"].startswith("warn: cost limit 200, delay 2 ms")
        assert said["schema"].startswith("fail: ")
        assert "cannot be asked while schema fails" in said["definitions"]
        assert said["connections"].startswith("ok: ")
        for _ in range(6):
            sessions.enter_context(psycopg.connect(server.url()))
        taken = doctor.said("connections")
        assert taken.startswith(
            "warn: 7 of 7 sessions that max_connections allows are taken, 1 of them by usage-worker"
        )
