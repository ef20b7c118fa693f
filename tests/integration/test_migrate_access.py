"""What the schema does once it is there: the quality formula, who may see and do what, a platform's own auth."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo

from tests.integration.database import run
from tests.integration.people import FORBIDDEN, People, acting
from worker.migrate import EMPTY, Runner, schema_version

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    database: str, people: People, rating: float | None, usage: int, success: int, errors: int, score: str
) -> None:
    call = "SELECT public.calculate_agent_quality_score(%s::numeric, %s, %s, %s)"
    assert run(database, call, rating, usage, success, errors) == [(Decimal(score),)]
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


def test_rows_are_seen_by_their_user_and_those_they_are_shared_with(database: str, people: People) -> None:
    def sees(user: uuid.UUID, relation: str = "user_agents") -> int:
        with acting(database, "authenticated", user) as session:
            row = session.execute(f"SELECT count(*) FROM public.{relation}".encode()).fetchone()
            return int(row[0]) if row else 0

    assert [sees(user) for user in (people.ann, people.bob, people.cid, people.dan)] == [1, 1, 1, 0]
    assert [sees(user, "user_agents_with_details") for user in (people.ann, people.dan)] == [1, 0]
    run(database, "UPDATE public.user_agents SET is_shared = false")
    assert [sees(user) for user in (people.ann, people.bob, people.cid)] == [1, 0, 0]
    with acting(database, "authenticated") as nobody:
        assert nobody.execute("SELECT FROM public.user_agents").fetchall() == []
    with acting(database, "anon") as outsider, pytest.raises(FORBIDDEN):
        outsider.execute("SELECT FROM public.user_agents")
    with acting(database, "service_role") as service:
        assert len(service.execute("SELECT FROM public.user_agents").fetchall()) == 1


def test_only_the_user_changes_a_row_and_never_gives_it_away(database: str, people: People) -> None:
    for user, changed in ((people.ann, 1), (people.bob, 0), (people.cid, 0), (people.dan, 0)):
        with acting(database, "authenticated", user) as session:
            assert session.execute("UPDATE public.user_agents SET notes = 'mine'").rowcount == changed
    with acting(database, "authenticated", people.ann) as session:
        with pytest.raises(FORBIDDEN):
            session.execute("UPDATE public.user_agents SET user_id = %s", [people.dan])
        with pytest.raises(FORBIDDEN):
            session.execute(
                "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s)",
                [people.dan, people.agent],
            )
    with acting(database, "authenticated", people.bob) as session:
        assert session.execute("DELETE FROM public.user_agents").rowcount == 0
    with acting(database, "authenticated", people.ann) as session:
        assert session.execute("DELETE FROM public.user_agents").rowcount == 1


CALLS = ["add_user_agent", "track_agent_usage", "soft_delete_user_agent", "restore_user_agent"]


@pytest.mark.parametrize("function", CALLS)
def test_functions_act_for_nobody_else(database: str, people: People, function: str) -> None:
    call = f"SELECT public.{function}(%s, %s)".encode()
    if function == "restore_user_agent":
        run(database, "UPDATE public.user_agents SET deleted_at = now()")
    rows = "SELECT u::text FROM public.user_agents AS u"
    before = run(database, rows)
    with acting(database, "anon") as outsider, pytest.raises(FORBIDDEN):
        outsider.execute(call, [people.ann, people.agent])
    for stranger in (people.bob, people.dan, None):
        with acting(database, "authenticated", stranger) as session:
            try:
                answer = session.execute(call, [people.ann, people.agent]).fetchone()
            except FORBIDDEN:
                continue
            # Where row-level security shows the caller no row there is none to change.
            assert answer == (False,)
    assert run(database, rows) == before
    with acting(database, "authenticated", people.ann) as session:
        session.execute(call, [people.ann, people.agent])
    with acting(database, "service_role") as service:
        service.execute(call, [people.ann, people.agent])


def test_adding_tracking_removing_and_coming_back(database: str, people: People) -> None:
    key = [people.dan, people.agent]
    with acting(database, "authenticated", people.dan) as session:
        added = session.execute("SELECT public.add_user_agent(%s, %s, 'template', 'work')", key).fetchone()
        session.execute("SELECT public.track_agent_usage(%s, %s, true, 120, 0.0000000001, 100)", key)
        session.execute("SELECT public.track_agent_usage(%s, %s, false, 30, 0.5, 301)", key)
        assert session.execute("SELECT public.soft_delete_user_agent(%s, %s)", key).fetchone() == (True,)
        assert session.execute("SELECT public.soft_delete_user_agent(%s, %s)", key).fetchone() == (False,)
        assert session.execute("SELECT public.restore_user_agent(%s, %s)", key).fetchone() == (True,)
        session.execute("SELECT public.soft_delete_user_agent(%s, %s)", key)
        assert session.execute("SELECT public.add_user_agent(%s, %s)", key).fetchone() == added
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
    """A database like that of a platform: auth belongs to another role, and ours may only refer to it."""
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


def test_a_platform_that_brings_auth_keeps_it(platform: str) -> None:
    runner = Runner(platform)
    auth = """
        SELECT c.relname::text, c.relowner::regrole::text, c.relacl::text, obj_description(c.oid) FROM pg_class AS c
        WHERE c.relnamespace = 'auth'::regnamespace
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
