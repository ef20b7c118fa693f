"""The migrated schema: the quality score, the functions, and schema auth of a platform."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo

from tests.integration.database import run
from tests.integration.users import session_as
from usage_worker.migrate import EMPTY, Runner, schema_version

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair(database: str) -> tuple[uuid.UUID, uuid.UUID]:
    """Add a user and an agent, but no row of the pair."""
    user = run(database, "INSERT INTO auth.users (email) VALUES ('x') RETURNING id")[0][0]
    return user, run(database, "INSERT INTO public.agents (name) VALUES ('helper') RETURNING id")[0][0]


@pytest.mark.parametrize("table", ["agents", "user_profiles"])
def test_change_sets_updated_at(database: str, pair: tuple[uuid.UUID, uuid.UUID], table: str) -> None:
    run(database, "INSERT INTO public.user_profiles (id) VALUES (%s)", pair[0])
    run(database, f"UPDATE public.{table} SET created_at = '2020-01-01', updated_at = '2020-01-01'")
    assert run(database, f"SELECT updated_at > now() - interval '1 minute' FROM public.{table}") == [(True,)]


def test_agents_of_platform_get_no_trigger(empty_database: str) -> None:
    run(empty_database, "CREATE TABLE public.agents (id uuid PRIMARY KEY, name text, description text)")
    runner = Runner(empty_database)
    runner.up("1.0.0")
    triggers = "SELECT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal"
    assert run(empty_database, triggers) == [("user_profiles",)]
    assert runner.verify() == []
    runner.down(EMPTY)
    assert run(empty_database, "SELECT proname FROM pg_proc WHERE proname = 'usage_set_updated_at'") == []


@pytest.mark.parametrize(
    ("rating", "usage", "success", "errors", "score"),
    [
        (None, 0, 0, 0, "1.50"),
        (0, 0, 0, 0, "0.00"),
        (None, 1, 1, 0, "3.50"),
        (5, 101, 101, 0, "5.00"),
        (5, 100, 100, 0, "4.90"),
        (5, 51, 51, 0, "4.90"),
        (5, 50, 50, 0, "4.80"),
        (5, 21, 21, 0, "4.80"),
        (5, 20, 20, 0, "4.70"),
        (5, 11, 11, 0, "4.70"),
        (5, 10, 10, 0, "4.60"),
        (5, 6, 6, 0, "4.60"),
        (5, 5, 5, 0, "4.50"),
        (5, 1, 1, 0, "4.50"),
        (4.25, 3, 2, 1, "3.63"),
        (None, 3, 1, 2, "2.50"),
        (3, 200, 0, 200, "2.50"),
        (0.01, 0, 0, 0, "0.01"),
    ],
)
def test_quality_score(
    database: str,
    pair: tuple[uuid.UUID, uuid.UUID],
    rating: float | None,
    usage: int,
    success: int,
    errors: int,
    score: str,
) -> None:
    call = "SELECT public.calculate_agent_quality_score(%s::numeric, %s, %s, %s)"
    assert run(database, call, rating, usage, success, errors) == [(Decimal(score),)]
    run(database, "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s)", *pair)
    by_trigger = run(
        database,
        "UPDATE public.user_agents SET user_rating = %s, usage_count = %s, success_count = %s, error_count = %s"
        " RETURNING quality_score",
        rating,
        usage,
        success,
        errors,
    )
    assert by_trigger == [(Decimal(score),)]


def test_add_track_remove_and_restore(database: str, pair: tuple[uuid.UUID, uuid.UUID]) -> None:
    key = [*pair]
    with session_as(database, "authenticated", pair[0]) as session:
        added = session.execute("SELECT id FROM public.add_user_agent(%s, %s, 'template', 'work')", key).fetchone()
        session.execute("SELECT public.track_agent_usage(%s, %s, true, 120, 0.0000000001, 100)", key)
        session.execute("SELECT public.track_agent_usage(%s, %s, false, 30, 0.5, 301)", key)
        assert session.execute("SELECT public.soft_delete_user_agent(%s, %s)", key).fetchone() == (True,)
        assert session.execute("SELECT public.soft_delete_user_agent(%s, %s)", key).fetchone() == (False,)
        assert session.execute("SELECT public.restore_user_agent(%s, %s)", key).fetchone() == (True,)
        session.execute("SELECT public.soft_delete_user_agent(%s, %s)", key)
        assert session.execute("SELECT id FROM public.add_user_agent(%s, %s)", key).fetchone() == added
        row = session.execute(
            "SELECT usage_count, success_count, error_count, total_tokens_used, total_cost_usd, source, folder,"
            " avg_response_time_ms, deleted_at, is_active, quality_score, usage_status, success_rate_percent,"
            " agent_name FROM public.user_agents_with_details"
        ).fetchone()
    # (100 + 301) / 2 = 200.5, rounded half away from zero; 0.5 * 3.0 + 0.3 * 2.5 + 0.2 * 2.5 = 2.75
    assert row == (
        *(2, 1, 1, 150, Decimal("0.5000000001"), "template", "work"),
        *(201, None, True, Decimal("2.75"), "active", Decimal("50.00"), "helper"),
    )


@pytest.fixture
def platform(empty_database: str, template_database: str) -> Iterator[str]:
    """Yield a database of a platform: its schema auth belongs to another role, and ours may only reference it."""
    suffix = uuid.uuid4().hex[:8]
    owner, migrator = f"platform_{suffix}", f"migrator_{suffix}"
    run(
        empty_database,
        f"""
        CREATE ROLE {owner} NOLOGIN;
        CREATE ROLE {migrator} LOGIN PASSWORD 'migrator';
        GRANT USAGE, CREATE ON SCHEMA public TO {migrator};
        CREATE SCHEMA auth AUTHORIZATION {owner};
        SET ROLE {owner};
        CREATE TABLE auth.users (id uuid PRIMARY KEY, email varchar(255), instance_id uuid);
        CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT NULL::uuid';
        GRANT USAGE ON SCHEMA auth TO {migrator}, anon, authenticated, service_role;
        GRANT REFERENCES ON auth.users TO {migrator};
        RESET ROLE;
        ALTER DEFAULT PRIVILEGES FOR ROLE {migrator} IN SCHEMA public
            GRANT ALL ON TABLES TO anon, authenticated, service_role;
        ALTER DEFAULT PRIVILEGES FOR ROLE {migrator} IN SCHEMA public
            GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
        """,
    )
    try:
        yield make_conninfo(empty_database, user=migrator, password="migrator")
    finally:
        run(empty_database, f"DROP OWNED BY {migrator}, {owner} CASCADE; DROP ROLE {migrator}, {owner}")


def test_auth_schema_of_platform_is_kept(platform: str) -> None:
    runner = Runner(platform)
    auth = """
        SELECT c.relname::text, c.relowner::regrole::text, c.relacl::text, obj_description(c.oid) FROM pg_class AS c
        WHERE c.relnamespace = 'auth'::regnamespace
        UNION ALL SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attacl::text, a.attnotnull::text
        FROM pg_attribute AS a WHERE a.attrelid = 'auth.users'::regclass AND a.attnum > 0
        UNION ALL SELECT p.proname, p.proowner::regrole::text, p.proacl::text, obj_description(p.oid) || p.prosrc
        FROM pg_proc AS p WHERE p.pronamespace = 'auth'::regnamespace
        UNION ALL SELECT r.rolname, r.rolbypassrls::text, r.rolcanlogin::text, shobj_description(r.oid, 'pg_authid')
        FROM pg_roles AS r WHERE r.rolname IN ('anon', 'authenticated', 'service_role')
        UNION ALL SELECT n.nspname, n.nspowner::regrole::text, n.nspacl::text, obj_description(n.oid)
        FROM pg_namespace AS n WHERE n.nspname = 'auth'
        ORDER BY 1
    """
    before = run(platform, auth)
    runner.up("3.0.0")
    assert runner.verify() == []
    assert run(platform, auth) == before
    runner.up()
    runner.down(EMPTY)
    assert schema_version(platform) is None
    assert run(platform, auth) == before
    left = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    assert run(platform, left) == [("usage_migrations",)]
    exposed = "SELECT has_table_privilege(role, 'usage_migrations', 'SELECT') FROM unnest(%s::text[]) AS role"
    assert run(platform, exposed, ["anon", "authenticated", "service_role"]) == [(False,)] * 3
