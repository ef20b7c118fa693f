"""`migrate repair` recreates whatever `verify` reports as missing or changed, and changes no row."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from psycopg import errors

from tests.integration.commands import Cli
from tests.integration.database import add_pair, run
from usage_worker.migrate import Runner, discover
from usage_worker.migrate.connection import connect
from usage_worker.migrate.repair import repair
from usage_worker.migrate.verify import differences, expectations

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Postgres

# A statement for each kind that damages one object of it; `table` and `name` are the parts of the object's name.
DAMAGE = {
    "view": "DROP {materialized} VIEW public.{object} CASCADE",
    "function": "DROP FUNCTION public.{object} CASCADE",
    "trigger": "DROP TRIGGER {name} ON public.{table}",
    "policy": 'DROP POLICY "{name}" ON public.{table}',
    "index": "DROP INDEX public.{object}",
    "constraint": "ALTER TABLE public.{table} DROP CONSTRAINT {name} CASCADE",
    "grant": "REVOKE ALL ON {target} FROM {role}",
    "table": "ALTER TABLE public.{object} DISABLE ROW LEVEL SECURITY, RESET (fillfactor)",
    "replica identity": "ALTER TABLE public.{object} REPLICA IDENTITY DEFAULT",
    "column": "ALTER TABLE public.{table} ALTER COLUMN {name} DROP DEFAULT",
}
# Nothing can be damaged without losing rows, or it belongs to the whole cluster.
INDESTRUCTIBLE = {"auth", "role", "sequence"}


def damages(url: str) -> dict[str, list[str]]:
    """Return by kind what damages each object that verify expects."""
    with connect(url) as connection:
        expected = expectations(connection, discover())
    constraints = {name.partition(".")[2] for kind, name in expected if kind == "constraint"}
    found: dict[str, list[str]] = {kind: [] for kind in DAMAGE}
    for (kind, object_), definition in expected.items():
        if definition is None or kind in INDESTRUCTIBLE or (kind == "index" and object_ in constraints):
            continue
        if kind == "column" and (" default " not in definition or " generated " in definition):
            continue
        table, _, name = object_.partition(".")
        target, _, role = object_.rpartition(" to ")
        found[kind].append(
            DAMAGE[kind].format(
                object=object_,
                table=table,
                name=name,
                target=in_schema(target),
                role=role,
                materialized="MATERIALIZED" if definition.startswith("materialized") else "",
            )
        )
    return found


def in_schema(target: str) -> str:
    what, _, name = target.partition(" ")
    return f"{'table' if what == 'column' else what} public.{name.partition('.')[0] if what == 'column' else name}"


def rows(url: str) -> dict[str, tuple[int, str]]:
    """Return number and checksum of the rows of every table."""
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'm')"
    checksum = "SELECT count(*), coalesce(md5(string_agg(t::text, '' ORDER BY t::text)), '') FROM public.{} AS t"
    return {table: run(url, checksum.format(table))[0] for (table,) in run(url, tables)}


def comments(url: str) -> set[tuple[str, str]]:
    """Return what comments describe, and their texts."""
    described = "SELECT pg_describe_object(classoid, objoid, objsubid), description FROM pg_description"
    return set(run(url, f"{described} WHERE objoid >= 16384"))


def test_every_object_is_made_again(database: str) -> None:
    """Every object that verify knows is damaged, so that a new one cannot be forgotten: kind by kind, then all."""
    add_pair(database)
    run(database, "REFRESH MATERIALIZED VIEW public.user_agent_analytics")
    before = rows(database)
    described = comments(database)
    statements = damages(database)
    for kinds in (*([kind] for kind in DAMAGE), list(DAMAGE)):
        with connect(database) as connection:
            for damage in (damage for kind in kinds for damage in statements[kind]):
                # It may have gone with another object.
                with suppress(errors.UndefinedObject, errors.UndefinedTable, errors.UndefinedFunction):
                    connection.execute(damage.encode())
            damaged = {different.kind for different in differences(connection, discover())}
        assert damaged >= set(kinds)
        done = repair(database)
        assert done.left == []
        assert {made.kind for made in done.made} == damaged
    assert Runner(database).verify() == []
    assert rows(database) == before
    assert comments(database) == described


def test_one_table_restored_from_dump(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """Its DROP … CASCADE takes seven views with it, the materialized one too, and functions of its row type."""
    row_id = add_pair(database)
    run(database, "UPDATE public.user_agents SET notes = 'mine'")
    before = rows(database)
    dump = [str(postgres.bin_dir / "pg_dump"), "-t", "public.user_agents", database]
    saved = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    run(database, "DROP TABLE public.user_agents CASCADE")
    restore = [str(postgres.bin_dir / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", database]
    subprocess.run(restore, input=saved, check=True, capture_output=True, text=True)
    cli = Cli(tmp_path, DATABASE_URL=database)
    done = json.loads(cli.run("migrate", "repair", "--json").stdout)
    assert {made["object"] for made in done["made"] if made["kind"] == "view"} == {
        *("user_agents_with_details", "user_favorite_agents", "user_popular_agents", "user_recent_agents"),
        *("user_agent_analytics", "user_agent_analytics_own", "user_agents_shared_with_me"),
    }
    assert done["left"] == []
    assert Runner(database).verify() == []
    figures = "SELECT (SELECT count(*) FROM user_agent_analytics), (SELECT id::text FROM user_agents_with_details)"
    assert run(database, figures) == [(1, row_id)]
    assert rows(database) | {"user_agent_analytics": ()} == before | {"user_agent_analytics": ()}
    assert cli.run("migrate", "repair").stdout == "nothing to do: the schema is as it should be\n"


def test_what_cannot_be_made_again_is_named(database: str, tmp_path: Path) -> None:
    run(
        database,
        """
        DROP TABLE public.usage_intake;
        ALTER TABLE public.user_agents DROP COLUMN notes CASCADE, ADD COLUMN mine text;
        CREATE VIEW public.theirs AS SELECT * FROM public.user_agent_analytics_own;
        ALTER VIEW public.user_agent_analytics_own RENAME COLUMN user_id TO person;
        DROP INDEX public.idx_user_agents_team;
        UPDATE public.usage_migrations SET state = 'failed' WHERE number = 17;
        """,
    )
    done = Cli(tmp_path, DATABASE_URL=database).run("migrate", "repair")
    assert done.returncode == 1
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    left = {tuple(line[1:3]) for line in lines if line[0] == "left"}
    assert {
        ("table", "usage_intake"),
        ("column", "user_agents.notes"),
        ("column", "user_agents.mine"),
        ("view", "user_agent_analytics_own"),
        ("migration", "017_usage_maintenance"),
    } <= left
    assert ("made", "index", "idx_user_agents_team") in {tuple(line[:3]) for line in lines}
    (reason,) = (line[3] for line in lines if line[:3] == ["left", "view", "user_agent_analytics_own"])
    assert reason.endswith(
        "cannot drop view user_agent_analytics_own because other objects depend on it: view theirs depends on view"
        " user_agent_analytics_own; drop what depends on it, run this command again, then create that again"
    )
    assert run(database, "SELECT count(*) FROM public.theirs") == [(0,)]


def test_options_of_view_are_set_without_dropping_it(database: str) -> None:
    run(
        database,
        """
        CREATE VIEW public.theirs AS SELECT * FROM public.user_agents_with_details;
        ALTER VIEW public.user_agents_with_details SET (security_invoker = false, security_barrier = true);
        ALTER VIEW public.user_agent_analytics_own RESET (security_barrier);
        """,
    )
    views = "SELECT 'user_agents_with_details'::regclass::oid, 'user_agent_analytics_own'::regclass::oid"
    before = run(database, views)
    done = repair(database)
    assert [made.object for made in done.made] == ["user_agent_analytics_own", "user_agents_with_details"]
    assert done.left == Runner(database).verify() == []
    assert run(database, views) == before


def test_disabled_foreign_keys_are_made_again(database: str) -> None:
    """As a pg_restore --disable-triggers that was interrupted leaves them."""
    run(database, "ALTER TABLE user_agents DISABLE TRIGGER ALL")
    assert repair(database).left == []
    assert Runner(database).verify() == []
    with pytest.raises(errors.ForeignKeyViolation):
        run(database, "INSERT INTO user_agents (user_id, agent_id) VALUES (gen_random_uuid(), gen_random_uuid())")


def test_foreign_keys_of_orphans_are_made_again_for_new_rows(database: str) -> None:
    orphan = "INSERT INTO user_agents (user_id, agent_id) VALUES (gen_random_uuid(), gen_random_uuid())"
    run(database, f"ALTER TABLE user_agents DISABLE TRIGGER ALL; {orphan}")
    left = {it.object: it.problem for it in repair(database).left}
    assert left.keys() == {"user_agents.user_agents_agent_id_fkey", "user_agents.user_agents_user_id_fkey"}
    assert all("violates foreign key constraint" in problem for problem in left.values())
    with pytest.raises(errors.ForeignKeyViolation):
        run(database, orphan)
    run(database, "DELETE FROM user_agents")
    assert repair(database).left == []
    assert Runner(database).verify() == []


def test_open_partitions_are_closed(database: str) -> None:
    """Days and months that an administrator brought back, where a platform has default privileges."""
    run(
        database,
        """
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO anon;
        CREATE SCHEMA archive;
        CREATE TABLE usage_events_20010101 PARTITION OF usage_events FOR VALUES FROM ('2001-01-01Z') TO ('2001-01-02Z');
        CREATE TABLE archive."Old" PARTITION OF usage_events FOR VALUES FROM ('2001-01-02Z') TO ('2001-01-03Z');
        GRANT SELECT (user_id) ON archive."Old" TO PUBLIC;
        SELECT user_agent_history_ensure_month('2001-01-01'), agent_usage_hourly_ensure_month('2001-01-01');
        GRANT ALL ON agent_usage_hourly_200101 TO service_role;
        ALTER TABLE user_agent_history_200101 DISABLE ROW LEVEL SECURITY;
        INSERT INTO usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens,
            tokens, success)
        SELECT id, '2001-01-01 12:00Z', 'usage', id, id, 1, 0, 0, 0, true FROM gen_random_uuid() AS id;
        """,
    )
    before = rows(database)
    done = repair(database)
    assert {(made.kind, made.object) for made in done.made} == {
        ("partition", "public.usage_events_20010101"),
        ("partition", 'archive."Old"'),
        ("partition", "public.user_agent_history_200101"),
        ("partition", "public.agent_usage_hourly_200101"),
    }
    assert done.left == Runner(database).verify() == []
    assert rows(database) == before
    reached = """
        SELECT relname FROM pg_class
         WHERE relispartition AND relkind = 'r'
           AND (NOT relrowsecurity OR has_any_column_privilege('anon', oid, 'SELECT'))
    """
    assert run(database, reached) == []


def test_function_of_the_platform_is_made_again(database: str) -> None:
    """Policies, a view and defaults go with it."""
    run(database, "DROP FUNCTION auth.uid() CASCADE")
    assert {made.kind for made in repair(database).made} >= {"auth", "policy", "view", "column"}
    assert Runner(database).verify() == []


def test_function_of_another_form_is_replaced(database: str) -> None:
    """CREATE OR REPLACE changes neither the result type nor names of parameters."""
    run(
        database,
        """
        DROP FUNCTION restore_user_agent, soft_delete_user_agent;
        CREATE FUNCTION restore_user_agent(a uuid, b uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION soft_delete_user_agent(p_user_id uuid, p_agent_id uuid) RETURNS void LANGUAGE sql AS '';
        """,
    )
    assert repair(database).left == []
    assert Runner(database).verify() == []


def test_nothing_installed(empty_database: str, tmp_path: Path) -> None:
    assert "nothing is installed" in Cli(tmp_path, DATABASE_URL=empty_database).error_line("migrate repair")


def test_table_of_others_with_the_name_of_a_view_is_not_granted(database: str) -> None:
    run(database, "DROP VIEW public.user_popular_agents; CREATE TABLE public.user_popular_agents (secret text)")
    left = {(it.kind, it.object) for it in repair(database).left}
    assert ("view", "user_popular_agents") in left
    readable = "SELECT has_table_privilege('authenticated', 'public.user_popular_agents', 'SELECT')"
    assert run(database, readable) == [(False,)]
