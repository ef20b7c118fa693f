"""`migrate up --check` names every obstacle in one run and changes nothing; `up` refuses with the same list."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

from tests.integration.commands import Cli
from tests.integration.database import add_pair, run, schema
from usage_worker.errors import ObstacleError, SchemaError
from usage_worker.migrate import Runner, discover
from usage_worker.migrate.adoption import adopt
from usage_worker.migrate.connection import connect
from usage_worker.migrate.obstacles import requirements
from usage_worker.migrate.repair import repair

if TYPE_CHECKING:
    from collections.abc import Iterator

HISTORY_2_0_0 = Path(__file__).with_name("history_2_0_0.sql")
ROLE = "usage_test_limited"


@pytest.fixture
def limited(empty_database: str) -> Iterator[str]:
    """URL of a role that may only connect."""
    run(empty_database, f"CREATE ROLE {ROLE} LOGIN")
    yield make_conninfo(empty_database, user=ROLE)
    run(empty_database, f"DROP OWNED BY {ROLE}")
    run(empty_database, f"DROP ROLE {ROLE}")


def test_every_obstacle_is_named_at_once(empty_database: str, tmp_path: Path) -> None:
    run(
        empty_database,
        """
        CREATE SCHEMA auth;
        CREATE TABLE auth.users (id bigint PRIMARY KEY, email text);
        CREATE TABLE public.agents (id uuid, title text);
        CREATE TABLE public.user_role_assignments (user_id uuid, role text);
        CREATE TABLE public.usage_events (id int);
        CREATE FUNCTION public.track_agent_usage(uuid) RETURNS void LANGUAGE sql AS '';
        """,
    )
    before = schema(empty_database)
    named = (
        "column auth.users.id is bigint instead of uuid",
        "column public.agents.name is missing",
        "column public.user_role_assignments.team_id is missing",
        "table public.agents has no primary key or unique constraint on id",
        "function track_agent_usage(uuid), table usage_events",
    )
    cli = Cli(tmp_path, DATABASE_URL=empty_database)
    done = cli.run("migrate", "up", "--check", "--json")
    assert done.returncode == 1
    listed = json.loads(done.stdout)["obstacles"]
    assert all(obstacle["remedy"] for obstacle in listed)
    for part in named:
        assert part in " ".join(obstacle["what"] for obstacle in listed)
    with pytest.raises(ObstacleError) as refused:
        Runner(empty_database).up()
    for part in named:
        assert part in str(refused.value)
    assert schema(empty_database) == before
    assert Runner(empty_database).check("1.0.0") == []
    assert cli.run("migrate", "up", "--check", "--to", "1.0.0").stdout == "nothing is in the way\n"
    assert run(empty_database, "SELECT to_regclass('public.usage_migrations')") == [(None,)]


def test_missing_rights_are_named(empty_database: str, limited: str) -> None:
    run(
        empty_database,
        """
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
        DO 'BEGIN EXECUTE format(''REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC'', current_database()); END';
        CREATE TABLE public.agents (id uuid PRIMARY KEY, name text);
        """,
    )
    (obstacle,) = Runner(limited).check()
    for part in (
        "create in schema public",
        "create temporary tables",
        "create schema auth, which is missing",
        "refer to table public.agents",
    ):
        assert f"role {ROLE} may not {part}" in obstacle.what
    with connect(empty_database) as connection, connection.transaction(force_rollback=True):
        # Roles belong to the cluster, and other databases may have this one.
        with suppress(errors.UndefinedObject), connection.transaction():
            connection.execute("ALTER ROLE usage_ingest RENAME TO usage_test_renamed")
        connection.execute(f"SET LOCAL ROLE {ROLE}")
        assert "create role usage_ingest, which is missing" in str(requirements(connection, discover()))
        connection.execute("RESET ROLE")
        connection.execute("CREATE ROLE usage_ingest")
        connection.execute(f"SET LOCAL ROLE {ROLE}")
        assert "create role usage_ingest" not in str(requirements(connection, discover()))
    with pytest.raises(ObstacleError, match="may not create in schema public"):
        Runner(limited).up()
    with pytest.raises(ObstacleError) as refused:
        adopt(limited)
    assert obstacle.what in str(refused.value)


def test_hidden_parents_are_named(empty_database: str, limited: str) -> None:
    """Policies that may hide a user from the role that migrates, whose rights ingest has when it looks for users."""
    run(
        empty_database,
        f"""
        CREATE SCHEMA auth;
        CREATE TABLE auth.users (id uuid PRIMARY KEY, is_active boolean);
        ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
        CREATE POLICY active ON auth.users USING (is_active);
        CREATE POLICY others ON auth.users TO postgres USING (true);
        GRANT USAGE ON SCHEMA auth TO {ROLE};
        """,
    )
    remedy = f"CREATE POLICY usage_worker ON auth.users FOR SELECT TO {ROLE} USING (true)"
    assert f"role {ROLE} may not see every row of auth.users ({remedy};" in Runner(limited).check()[0].what
    assert "see every row" not in str(Runner(limited).check("3.0.0"))
    run(empty_database, remedy)
    assert "see every row" not in str(Runner(limited).check())
    run(empty_database, "CREATE POLICY as_many ON auth.users AS RESTRICTIVE FOR SELECT USING (true)")
    assert "see every row" not in str(Runner(limited).check())
    run(empty_database, "CREATE POLICY fewer ON auth.users AS RESTRICTIVE FOR SELECT USING (is_active)")
    assert f"policy applies to this role, ALTER ROLE {ROLE} BYPASSRLS" in str(Runner(limited).check())


def test_names_of_agents_that_are_no_text_are_named(empty_database: str) -> None:
    """As translations in JSON, to which PostgreSQL assigns no text."""
    runner = Runner(empty_database)
    run(
        empty_database,
        "CREATE DOMAIN public.short AS varchar(50); CREATE TABLE public.agents (id uuid PRIMARY KEY, name jsonb)",
    )
    assert runner.check("3.0.0") == []
    (obstacle,) = runner.check()
    assert obstacle.what == "column public.agents.name is jsonb instead of text"
    run(empty_database, "ALTER TABLE public.agents ALTER name TYPE public.short")
    runner.up()


def test_memberships_that_users_may_not_read_are_named(empty_database: str) -> None:
    """With the policy of 3.0.0 nobody could read any row of `user_agents`, own ones included."""
    runner = Runner(empty_database)
    runner.up("2.0.0")
    run(empty_database, "CREATE TABLE public.user_role_assignments (user_id uuid, team_id uuid, role text)")
    (obstacle,) = runner.check()
    (remedy,) = re.findall(r"\((GRANT .*? TO authenticated)\)", obstacle.what)
    with connect(empty_database) as connection, connection.transaction(force_rollback=True):
        connection.execute("ALTER ROLE authenticated RENAME TO usage_test_renamed")
        (described,) = requirements(connection, discover())
        (with_role,) = re.findall(r"\((CREATE ROLE .*? TO authenticated)\)", described.what)
        connection.execute(with_role.encode())
        assert requirements(connection, discover()) == []
    run(empty_database, remedy)
    assert runner.check() == []
    runner.up("3.0.0")
    add_pair(empty_database)
    with psycopg.connect(empty_database) as session:
        session.execute("SET LOCAL ROLE authenticated")
        assert session.execute("SELECT count(*) FROM public.user_agents").fetchall() == [(0,)]


def test_foreign_owner_is_named(empty_database: str, limited: str) -> None:
    Runner(empty_database).up("2.0.0")
    assert "alter table user_agents of role" in Runner(limited).check()[0].what
    run(empty_database, "DROP TABLE public.usage_migrations, public.usage_migration_objects")
    for refused in (Runner(limited).up, lambda: adopt(limited)):
        with pytest.raises(ObstacleError, match="alter table user_agents of role"):
            refused()


def test_known_table_is_to_be_adopted(empty_database: str) -> None:
    run(empty_database, HISTORY_2_0_0.read_text())
    (obstacle,) = Runner(empty_database).check()
    assert obstacle.what == "table user_agents"
    assert "migrate adopt" in obstacle.remedy
    for refused in (Runner(empty_database).verify, lambda: repair(empty_database)):
        with pytest.raises(SchemaError, match="run `usage-worker migrate adopt`"):
            refused()


def test_dropped_column_of_an_applied_migration_is_named(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    run(empty_database, "ALTER TABLE public.user_agents DROP COLUMN custom_name CASCADE")
    (obstacle,) = runner.check()
    assert "column user_agents.custom_name" in obstacle.what


def test_column_of_another_type_is_no_error(empty_database: str) -> None:
    run(empty_database, HISTORY_2_0_0.read_text())
    run(empty_database, "ALTER TABLE public.user_agents ADD display_position integer")
    assert "table user_agents" in {obstacle.what for obstacle in Runner(empty_database).check()}
