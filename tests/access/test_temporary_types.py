"""No function evaluates objects that a caller created in the temporary schema of the session.

PostgreSQL searches that schema first for types and relations, never for functions and operators, unless the
search_path puts pg_temp last. The CHECK of a domain would run with the privileges of the function that casts to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors

from tests.access.sample import AGENT, HERE, OWNER, ROLES, ROW, STRANGER, TEAM, Role, act_as, populate
from usage_worker.migrate import discover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.errors import Diagnostic

    from tests.access.sample import Connection

PATH = "SET search_path = pg_catalog, pg_temp"
SETTING = "search_path=pg_catalog, pg_temp"
OURS = "FROM objects JOIN pg_proc AS p USING (oid) WHERE kind IN ('function', 'predicate')"
REPORT = """
CREATE FUNCTION pg_temp.report(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% evaluated as %', $1, current_user;
    RETURN true;
END $$
"""
# Every role may validate the functions that it may execute. The session caches the compiled functions.
COMPILE = """
SELECT pg_catalog.plpgsql_validator(p.oid)
  FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
 WHERE l.lanname = 'plpgsql' AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
"""
# Forces functions to create their partitions and to be compiled again, as in a new session.
BEGIN = """
DO $$
DECLARE
    v_function regprocedure;
BEGIN
    EXECUTE format('DROP TABLE public.usage_events_%s', to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'));
    EXECUTE format('DROP TABLE public.user_agent_history_%s', to_char(now() AT TIME ZONE 'UTC', 'YYYYMM'));
    EXECUTE format('DROP TABLE public.agent_usage_hourly_%s', to_char(now() AT TIME ZONE 'UTC', 'YYYYMM'));
    FOR v_function IN SELECT oid FROM objects WHERE kind IN ('function', 'predicate') LOOP
        EXECUTE format('ALTER FUNCTION %s COST 100', v_function);
    END LOOP;
END $$
"""
# Together they call every function and fire every trigger. No statement names a type, which the caller could replace.
CALLS = [
    ("owner", "SELECT public.track_agent_usage(%(owner)s, %(agent)s, true, 7, 0.25, 100)"),
    ("owner", "SELECT public.soft_delete_user_agent(%(owner)s, %(agent)s)"),
    ("owner", "SELECT public.restore_user_agent(%(owner)s, %(agent)s)"),
    ("owner", "SELECT public.add_user_agent(%(owner)s, %(agent)s)"),
    ("owner", "SELECT public.calculate_agent_quality_score(4, 1, 1, 0)"),
    ("owner", "UPDATE public.user_agents SET notes = 'x', user_rating = 5, updated_at = '2026-01-31'"),
    ("owner", "UPDATE public.user_agents SET is_shared = true, team_id = %(team)s, shared_with = %(people)s"),
    ("owner", "UPDATE public.user_agents SET shared_with = NULL, notes = NULL"),
    ("owner", "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, permission)"
              " VALUES (%(row)s, %(stranger)s, 'edit')"),
    ("stranger", "UPDATE public.user_agents SET folder = 'x'"),
    ("stranger", "UPDATE public.user_agents SET deleted_at = now()"),
    ("stranger", "SELECT public.edit_shared_agent(%(row)s, '{\"folder\": \"y\"}')"),
    ("stranger", "SELECT * FROM public.user_agents_shared_with_me"),
    ("stranger", "SELECT public.accept_share(share_id), public.decline_share(share_id)"
                 " FROM public.user_agents_shared_with_me"),
    ("owner", "UPDATE public.user_agent_shares SET permission = 'view', expires_at = NULL"),
    ("owner", "DELETE FROM public.user_agent_shares"),
    ("owner", "UPDATE public.user_agents SET id = %(owner)s"),
    ("owner", "DELETE FROM public.user_agents"),
    ("owner", "SELECT public.usage_uuid_of('user', 'owner 42'), public.usage_own_conversation_ids()"),
    ("owner", "SELECT * FROM public.usage_external_ids"),
    ("owner", "SELECT public.related_agents(%(agent)s), public.agent_neighbourhood(%(agent)s), public.agents_for_me()"),
    ("owner", "SELECT public.search_agents('{1}', 'helper')"),
    ("granted", "SELECT public.agent_embedding_is_unit('{1}')"),
    ("service role", "SELECT public.track_agent_usage(%(owner)s, %(agent)s)"),
    ("service role", "SELECT public.usage_summary(now() - interval '1 day', now(), p_group_by => '{agent, model}')"),
    ("service role", "UPDATE public.agents SET description = 'x'"),
    ("ingest", "SELECT public.usage_events_ensure_recent_day(current_date)"),
    ("ingest", "SELECT public.usage_find_parents(ARRAY[%(owner)s], ARRAY[%(agent)s])"),
    ("ingest", "SELECT public.usage_rolled_up_days(ARRAY[current_date])"),
    ("granted", "SELECT public.usage_create_parents(ARRAY[%(owner)s], ARRAY[%(agent)s])"),
    ("periodic task", "SELECT public.agent_usage_hourly_ensure_month(current_date)"),
    # The cascade runs as the owner of user_agents.
    ("service role", "DELETE FROM public.agents"),
]  # fmt: skip
# A periodic task runs as the owner of the tables.
CALLERS = {**ROLES, "periodic task": Role("none")}
REFUSED = [errors.InsufficientPrivilege, errors.RestrictViolation]


@pytest.fixture
def session(database: str) -> Iterator[Connection]:
    """Yield a new session with the sample data, whose temporary schema no other test shares."""
    with psycopg.connect(database) as connection:
        populate(connection)
        yield connection
        connection.rollback()


def functions(connection: Connection, condition: str) -> list[str]:
    """Return the names of the functions that meet the condition."""
    rows = connection.execute(f"SELECT p.oid::regprocedure::text {OURS} AND ({condition}) ORDER BY 1".encode())
    return [row[0] for row in rows]


def attack(connection: Connection, attacker: str) -> tuple[str, list[type[psycopg.Error]]]:
    """Return the temporary objects of the attacker that the calls evaluated, and the errors of the calls."""
    names = connection.execute((HERE / "temporary_names.sql").read_bytes()).fetchall()
    connection.execute(BEGIN.encode())
    act_as(connection, ROLES[attacker])
    for statement in (REPORT, *(row[1] for row in names), COMPILE):
        connection.execute(statement.encode())
    evaluated: list[str] = []
    failures: list[type[psycopg.Error]] = []

    def note(notice: Diagnostic) -> None:
        evaluated.append(notice.message_primary or "")

    connection.add_notice_handler(note)
    values = {"owner": OWNER, "agent": AGENT, "team": TEAM, "row": ROW, "stranger": STRANGER, "people": [STRANGER]}
    for role, call in CALLS:
        try:
            with connection.transaction():
                act_as(connection, CALLERS[role])
                connection.execute(call.encode(), values)
        except psycopg.Error as error:
            failures.append(type(error))
    connection.remove_notice_handler(note)
    connection.execute("RESET ROLE")
    return "\n".join(evaluated), failures


@pytest.mark.parametrize("attacker", ["owner", "granted", "service role"])
def test_no_object_of_caller_is_evaluated(session: Connection, attacker: str) -> None:
    session.execute("SET LOCAL track_functions = 'all'")
    assert attack(session, attacker) == ("", REFUSED)
    # Statistics do not count a bound body that was inlined.
    ran = "p.oid IN (SELECT funcid FROM pg_stat_xact_user_functions)"
    assert functions(session, f"p.prosqlbody IS NULL AND NOT {ran}") == []


def test_functions_bind_their_names(session: Connection) -> None:
    """Names are bound by the search_path or by a body that was parsed at creation."""
    unsafe = f"p.prosqlbody IS NULL AND '{SETTING}' <> ALL (coalesce(p.proconfig, '{{}}'))"
    assert functions(session, unsafe) == []
    assert len(functions(session, "true")) >= 20


def test_declared_variables_qualify_their_types(session: Connection) -> None:
    """plpgsql_validator() compiles functions with the search_path of its caller."""
    session.execute(BEGIN.encode())
    for name, _ in session.execute((HERE / "temporary_names.sql").read_bytes()).fetchall():
        # A variable of a shell type fails to compile.
        session.execute(f'CREATE TYPE pg_temp."{name}"'.encode())
    session.execute(COMPILE.encode())


def test_functions_in_migration_files_bind_their_names() -> None:
    """Includes functions that exist only during a migration and functions that a down migration creates."""
    headers = [
        header
        for migration in discover()
        for script in (migration.up_sql, migration.down_sql)
        for header in re.findall(r"CREATE (?:OR REPLACE )?FUNCTION.*?(?:\bAS \$|\bRETURN )", script, re.DOTALL)
    ]
    assert [it for it in headers if PATH not in it and not it.endswith("RETURN ")] == []
    assert len(headers) >= 20


@pytest.mark.parametrize(
    "function",
    [
        "track_agent_usage",
        "user_agents_record_change",
        "user_agents_record_delete",
        "user_agents_take_shares",
        "user_agent_shares_changed",
    ],
)
def test_search_path_without_pg_temp_is_detected(session: Connection, function: str) -> None:
    session.execute(f"ALTER FUNCTION public.{function} SET search_path = ''".encode())
    assert f"as {session.info.user}" in attack(session, "owner")[0]


@pytest.mark.parametrize(
    "function", ["track_agent_usage", "usage_events_ensure_day", "user_agent_history_ensure_month"]
)
def test_unqualified_variable_type_is_detected(session: Connection, function: str) -> None:
    row = session.execute(f"SELECT pg_get_functiondef('public.{function}'::regproc)".encode()).fetchone()
    assert row
    session.execute(row[0].replace("pg_catalog.", "").encode())
    assert f"as {session.info.user}" in attack(session, "granted")[0]


def test_unbound_body_is_detected(session: Connection) -> None:
    """The caller need not be the role that created the types, since a pool shares its sessions."""
    row = session.execute("SELECT pg_get_function_sqlbody('auth.uid'::regproc)").fetchone()
    assert row
    body = row[0].replace("RETURN", "SELECT")
    session.execute(f"CREATE OR REPLACE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $${body}$$".encode())
    assert "as authenticated" in attack(session, "service role")[0]
