"""The role of the workers that count: what it may do, what it may not, and that `verify` knows each of its rights."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors

from tests.integration.commands import Cli
from tests.integration.database import run
from tests.integration.test_ingest import event
from tests.integration.test_queries import accept
from usage_worker import store
from usage_worker.errors import ObstacleError, RoleError
from usage_worker.events.refusals import Refusal
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.migrate import discover
from usage_worker.migrate.connection import connect
from usage_worker.migrate.verify import catalogue, deviations
from usage_worker.store.intake import Intake
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

FORBIDDEN = [
    "SELECT id FROM auth.users",
    "SELECT id FROM public.agents",
    "SELECT notes FROM public.user_agents",
    "SELECT payload FROM public.usage_dead_letters",
    "SELECT model FROM public.usage_events",
    "SELECT FROM public.user_agent_history",
    "SELECT FROM public.user_agent_shares",
    "SELECT FROM public.user_role_assignments",
    "SELECT FROM public.user_profiles",
    "SELECT FROM public.user_agent_analytics",
    "UPDATE public.user_agents SET notes = 'x'",
    "UPDATE public.user_agents SET deleted_at = now()",
    "UPDATE public.user_agents SET quality_score = 5",
    "UPDATE public.usage_events SET tokens = 0",
    "DELETE FROM public.user_agents",
    "DELETE FROM public.usage_events",
    "DELETE FROM public.usage_daily",
    "DELETE FROM public.usage_dead_letters",
    "TRUNCATE public.usage_daily",
    "DROP TABLE public.usage_daily",
    "ALTER TABLE public.user_agents DISABLE ROW LEVEL SECURITY",
    "CREATE TABLE public.mine (id integer)",
    "INSERT INTO auth.users DEFAULT VALUES",
    "INSERT INTO public.agents (name) VALUES ('x')",
    "INSERT INTO public.usage_migrations (number, name, version, sha256, state) VALUES (99, '', '', '', 'applied')",
    "SELECT public.usage_events_ensure_day(current_date)",
    "SELECT public.usage_create_parents('{}', '{}')",
    "SELECT public.track_agent_usage(gen_random_uuid(), gen_random_uuid())",
    "SET ROLE service_role",
]


@pytest.fixture
def worker_cli(tmp_path: Path, ingest_url: str, redis_url: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=ingest_url, REDIS_URL=redis_url)


def test_worker_has_no_other_rights(database: str, ingest_url: str) -> None:
    allowed = []
    with psycopg.connect(ingest_url) as connection:
        for statement in FORBIDDEN:
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute(statement.encode())
                allowed.append(statement)
            except errors.InsufficientPrivilege:
                pass
    assert allowed == []


def test_worker_may_execute_every_statement_of_counting(ingest_url: str) -> None:
    texts = named_queries("ingest", "status") - {"create_parents"}
    refused = {}
    with psycopg.connect(ingest_url) as connection:
        for statement in ("staging", "stage_ledger"):
            connection.execute(query(statement))
        for name in sorted(texts):
            try:
                with connection.transaction(force_rollback=True):
                    accept(connection, query.texts[name])
            except psycopg.Error as error:
                refused[name] = str(error)
    assert refused == {}


def test_role_with_bypassrls_copies_into_ledger(
    harness: IngestHarness, make_resources: Callable[..., Resources], ingest_login: str, database: str
) -> None:
    run(database, f"ALTER ROLE {ingest_login} BYPASSRLS")
    try:
        harness.publish(event(harness), event(harness, user_id=uuid4()), counted=False)
        assert harness.flush() == Intake(2, 1, 0, 1)
    finally:
        run(database, f"ALTER ROLE {ingest_login} NOBYPASSRLS")
    harness.publish(event(harness), counted=False)
    assert harness.flush() == Intake(1, 1, 0, 0)


@pytest.mark.parametrize(("days", "counted"), [(-300, True), (-367, False)])
def test_worker_makes_partitions_of_recent_days_only(
    harness: IngestHarness, make_resources: Callable[..., Resources], days: int, counted: bool
) -> None:
    when = datetime.now(UTC) + timedelta(days=days)
    body = json.dumps([{key: str(value) for key, value in event(harness, occurred_at=when).items()}])
    harness.xadd(body)
    patient = make_resources(accept_days=1000).flusher
    assert patient.flush(0).intake == Intake(1, counted, 0, not counted)
    if not counted:
        assert "counts the last 366 days only" in harness.dead_letters()[0]["reason"]
        harness.xadd(body)
        owner = make_resources(DATABASE_URL=harness.resources.settings.database_url, accept_days=1000).flusher
        assert owner.flush(0).intake == Intake(1, 1, 0, 0)


def test_events_wait_where_users_or_agents_may_be_hidden(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """The owner of our functions has no BYPASSRLS, and the tables of users and agents are another's."""
    owner = f"usage_owner_{uuid4().hex[:12]}"
    lookup = "FUNCTION public.usage_find_parents(uuid[], uuid[])"
    run(
        database,
        f"""
        CREATE ROLE {owner};
        GRANT USAGE ON SCHEMA auth TO {owner};
        GRANT SELECT ON auth.users, public.agents TO {owner};
        ALTER {lookup} OWNER TO {owner};
        ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
        """,
    )
    harness.worker = make_resources(reclaim_idle=0.001)
    try:
        harness.publish(event(harness))
        for table in ("auth.users", "public.agents"):
            remedy = f"CREATE POLICY usage_worker ON {table} FOR SELECT TO {owner} USING (true)"
            with pytest.raises(ObstacleError, match=re.escape(f"{table} may hide rows from role {owner}; {remedy}")):
                harness.flush()
            run(database, remedy)
        harness.publish(event(harness, user_id=uuid4()), counted=False)
        harness.flush()
        harness.check()
        assert [letter["reason"] for letter in harness.dead_letters()] == [Refusal.NO_USER.text]
    finally:
        run(database, f"ALTER {lookup} OWNER TO CURRENT_USER; DROP OWNED BY {owner}; DROP ROLE {owner}")


def test_commands_of_worker_and_owner(worker_cli: Cli, harness: IngestHarness) -> None:
    """What counts and shows works; what reads, maintains or migrates fails with a line that names the URL."""
    harness.publish(event(harness))
    for command in ("drain", "schedule", "metrics"):
        done = worker_cli.run(*command.split())
        assert done.returncode == 0, done
    harness.check()
    status = worker_cli.run("status", "--json")
    assert '"schema": "5.2.0"' in status.stdout
    lines = worker_cli.error_lines(
        "run purge", "run partitions", "run refresh", "run reconcile", "migrate down --to 3.0.0 --yes"
    )
    for line in lines[:4]:
        assert "which does not own the tables; this needs the owner's DATABASE_URL" in line
    assert "this needs the owner's DATABASE_URL" in lines[4]
    lines = worker_cli.error_lines("report", "anomalies", "search text", f"related {uuid4()}")
    for line in lines[:2]:
        assert line.endswith("; this needs the DATABASE_URL of the owner, or of a login with service_role"), line
    for line in lines[2:]:
        assert line.endswith(" or of a login with authenticated or service_role"), line


def test_status_says_once_what_a_missing_right_needs(worker_cli: Cli, database: str) -> None:
    run(database, "REVOKE SELECT ON public.usage_migrations FROM usage_ingest")
    problems = json.loads(worker_cli.run("status", "--json").stdout)["problems"]
    (schema,) = (problem for problem in problems if problem["check"] == "schema")
    denied = "permission denied for table usage_migrations"
    assert schema["reason"] == f"its version cannot be read: the role lacks a right: {denied}"
    assert schema["remedy"] == "this needs the owner's DATABASE_URL"


def test_periodic_tasks_name_the_wrong_url(harness: IngestHarness) -> None:
    for task in PERIODIC_TASKS:
        with pytest.raises(RoleError, match="this needs the owner's DATABASE_URL"):
            task.run(harness.worker.store, harness.worker.settings)


def test_verify_reports_each_lost_right(database: str) -> None:
    with connect(database) as connection:
        rights = [
            fact
            for fact in catalogue(connection)
            if fact.kind in ("grant", "policy") and "usage_ingest" in f"{fact.object} {fact.definition}"
        ]
        assert len(rights) > 50
        with connection.transaction(force_rollback=True):
            for table in {fact.belongs_to for fact in rights if fact.kind == "policy"}:
                connection.execute(f"DROP POLICY {table}_ingest ON public.{table}".encode())
                connection.execute(f"REVOKE ALL ON public.{table} FROM usage_ingest".encode())
            connection.execute(b"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM usage_ingest")
            missing = {(it.kind, it.object) for it in deviations(connection, discover()) if it.problem == "missing"}
    assert missing == {(fact.kind, fact.object) for fact in rights}


@pytest.mark.parametrize(
    "grant",
    [
        "ALTER ROLE usage_ingest BYPASSRLS",
        "GRANT service_role TO usage_ingest",
        "GRANT CREATE ON SCHEMA public TO usage_ingest",
        "GRANT SELECT (notes) ON public.user_agents TO usage_ingest",
    ],
)
def test_verify_reports_what_the_role_must_not_have(database: str, grant: str) -> None:
    with connect(database) as connection, connection.transaction(force_rollback=True):
        connection.execute(grant.encode())
        (found,) = deviations(connection, discover())
    assert "usage_ingest" in found.object


def named_queries(*files: str) -> set[str]:
    """Return the names of the queries in these files of the store."""
    texts = ((Path(store.__file__).parent / f"{file}.sql").read_text() for file in files)
    return {name for text in texts for name in re.findall(r"^-- name: (\w+)", text, re.MULTILINE)}
