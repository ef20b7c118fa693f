"""Objects of others: `up` names all of them before it changes anything, `down` drops only marked objects."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.integration.commands import Cli
from tests.integration.database import add_pair, copy_up_to, run, schema
from usage_worker.errors import MigrationError, ObstacleError
from usage_worker.migrate import EMPTY, Runner, discover, latest_version, schema_version
from usage_worker.migrate.script import script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import Postgres

# The history's own 2.0.0, with 25 rows.
HISTORY_2_0_0 = Path(__file__).with_name("history_2_0_0.sql")
MARKS = "SELECT kind, name, number FROM public.usage_migration_objects ORDER BY 1, 2"


@pytest.fixture
def dump(postgres: Postgres, empty_database: str) -> Callable[[], str]:
    """Return a function that dumps the database with pg_dump."""

    def dumped() -> str:
        command = [str(postgres.bin_dir / "pg_dump"), empty_database]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        # Each dump contains a new random key.
        return "".join(line for line in text.splitlines(True) if not line.startswith(("\\restrict", "\\unrestrict")))

    return dumped


@pytest.fixture
def restored(postgres: Postgres, empty_database: str, dump: Callable[[], str]) -> Iterator[Callable[[], str]]:
    """Return a function that restores the database into a new one and returns the URL of the new one."""
    name = f"{conninfo_to_dict(empty_database)['dbname']}_restored"

    def restore() -> str:
        run(empty_database, f"CREATE DATABASE {name}")
        url = make_conninfo(empty_database, dbname=name)
        command = [str(postgres.bin_dir / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", url]
        subprocess.run(command, input=dump(), check=True, capture_output=True, text=True)
        return url

    yield restore
    run(empty_database, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_foreign_tables_of_same_names_are_left_unchanged(
    empty_database: str, dump: Callable[[], str], tmp_path: Path
) -> None:
    run(empty_database, HISTORY_2_0_0.read_text())
    before = dump()
    cli = Cli(tmp_path, DATABASE_URL=empty_database)
    refusal = (
        "table user_agents: it has the columns of this schema; run `usage-worker migrate adopt`, nothing was changed"
    )
    assert cli.error_line("migrate up").endswith(f": {refusal}")
    assert "is not applied" in cli.error_line("migrate down --to 1.0.0 --yes")
    assert dump() == before
    assert run(empty_database, "SELECT count(*) FROM public.user_agents") == [(25,)]


def test_script_is_refused_too(empty_database: str, postgres: Postgres, dump: Callable[[], str]) -> None:
    run(empty_database, HISTORY_2_0_0.read_text())
    before = dump()
    command = [str(postgres.bin_dir / "psql"), "-qX", "-d", empty_database]
    text = script(discover(), EMPTY, latest_version())
    done = subprocess.run(command, input=text, check=False, capture_output=True, text=True)
    assert "table user_agents: " in done.stderr
    assert done.returncode != 0
    assert dump() == before


OBSTACLES = {
    "CREATE TABLE {} (id int)": (
        *("usage_events", "usage_dead_letters", "usage_events_20310102", "user_agent_history_203101"),
        *("user_agents_kept_3_0_0", "usage_events_kept_4_0_0"),
    ),
    "CREATE VIEW {} AS SELECT 1 AS one": ("user_agents_with_details",),
    "CREATE MATERIALIZED VIEW {} AS SELECT 1 AS one": ("user_agent_analytics",),
    "CREATE SEQUENCE {}": ("usage_dead_letters_id_seq", "usage_intake"),
    "CREATE TYPE {} AS ENUM ('a')": ("usage_daily",),
    "CREATE DOMAIN {} AS text": ("usage_entries",),
    "CREATE TYPE {} AS (a int)": ("user_agent_shares",),
    "CREATE INDEX {} ON public.theirs (id)": ("idx_user_agents_status", "idx_user_agents_quality_4"),
    "CREATE FUNCTION {}(uuid) RETURNS void LANGUAGE sql AS ''": ("add_user_agent", "usage_events_ensure_day"),
}


def test_all_taken_names_are_listed(empty_database: str, dump: Callable[[], str]) -> None:
    run(empty_database, "CREATE TABLE public.theirs (id int PRIMARY KEY)")
    for statement, taken in OBSTACLES.items():
        for name in taken:
            run(empty_database, statement.format(name))
    before = dump()
    with pytest.raises(ObstacleError) as refused:
        Runner(empty_database).up()
    named = str(refused.value).removeprefix("the state of the database prevents this: ").partition(": ")[0]
    expected = sorted(name for taken in OBSTACLES.values() for name in taken)
    assert sorted(part.split()[-1].removesuffix("(uuid)") for part in named.split(", ")) == expected
    assert dump() == before
    # None of these names is taken by an earlier version.
    Runner(empty_database).up("1.0.0")


def test_names_of_later_versions_are_allowed(empty_database: str) -> None:
    run(empty_database, "CREATE TABLE public.usage_events AS SELECT generate_series(1, 1000) AS id")
    runner = Runner(empty_database)
    runner.up("3.0.0")
    with pytest.raises(ObstacleError, match="table usage_events: "):
        runner.up()
    assert schema_version(empty_database) == "3.0.0"
    runner.down("2.0.0")
    runner.down(EMPTY)
    assert run(empty_database, "SELECT count(*), has_table_privilege('usage_events', 'SELECT') FROM usage_events") == [
        (1000, True)
    ]


def test_foreign_additions_to_tables_are_named(empty_database: str, dump: Callable[[], str]) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    run(
        empty_database,
        """
        ALTER TABLE public.user_agents ADD notes text, ADD mine text,
            ADD CONSTRAINT user_agents_source_check CHECK (is_active);
        CREATE POLICY "Team members can view shared agents" ON public.user_agents FOR DELETE USING (false);
        CREATE FUNCTION public.noticed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER user_agents_updated_at BEFORE UPDATE ON public.user_agents
            FOR EACH ROW EXECUTE FUNCTION public.noticed();
        """,
    )
    before = dump()
    with pytest.raises(ObstacleError) as refused:
        runner.up()
    assert (
        "column user_agents.notes, constraint user_agents.user_agents_source_check,"
        " policy user_agents.Team members can view shared agents, trigger user_agents.user_agents_updated_at: "
    ) in str(refused.value)
    assert dump() == before


def test_objects_created_after_failed_up_are_not_dropped(empty_database: str, tmp_path: Path) -> None:
    """A migration in one transaction that failed has created nothing, so its rollback must not run."""
    files = copy_up_to(discover()[1], tmp_path / "migrations")
    broken = files / "002_user_agents.up.sql"
    sound = broken.read_text()
    broken.write_text(sound + "SELECT 1 / 0")
    with pytest.raises(MigrationError, match="division by zero"):
        Runner(empty_database, files).up("2.0.0")
    run(empty_database, "CREATE TABLE public.user_agents AS SELECT generate_series(1, 25) AS id")
    broken.write_text(sound)
    runner = Runner(empty_database, files)
    with pytest.raises(ObstacleError, match="table user_agents: "):
        runner.up("2.0.0")
    assert [migration.number for migration in runner.down("1.0.0")] == [2]
    assert run(empty_database, "SELECT count(*) FROM public.user_agents") == [(25,)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("DELETE FROM usage_migration_objects WHERE name = 'usage_daily'", "table usage_daily: "),
        ("DELETE FROM usage_migration_objects WHERE name LIKE 'track_agent%'", "function track_agent_usage(p_user_id"),
        ("CREATE TABLE usage_intake_kept_4_0_0 (theirs int)", "table usage_intake_kept_4_0_0: "),
    ],
)
def test_down_names_unmarked_objects(empty_database: str, dump: Callable[[], str], change: str, named: str) -> None:
    runner = Runner(empty_database)
    runner.up()
    run(empty_database, change)
    before = dump()
    with pytest.raises(ObstacleError) as refused:
        runner.down("2.0.0")
    assert named in str(refused.value)
    assert dump() == before


def test_down_names_what_depends_on_dropped_objects(empty_database: str, dump: Callable[[], str]) -> None:
    runner = Runner(empty_database)
    runner.up()
    add_pair(empty_database)
    run(
        empty_database,
        """
        CREATE SCHEMA theirs;
        CREATE VIEW theirs.totals AS SELECT count(*) FROM public.user_agent_analytics;
        CREATE VIEW theirs.again AS SELECT * FROM theirs.totals;
        CREATE MATERIALIZED VIEW public.tokens AS SELECT response_time_total_ms FROM public.user_agents;
        CREATE VIEW theirs.samples AS SELECT count(*) FROM public.usage_dead_letters;
        CREATE VIEW theirs.allowed AS SELECT id, usage_count FROM public.user_agents;
        CREATE POLICY answered ON public.user_agents FOR DELETE USING (last_conversation_at IS NULL);
        CREATE TABLE theirs.noted (task text REFERENCES public.usage_task_runs (task));
        """,
    )
    before = dump()
    with pytest.raises(ObstacleError) as refused:
        runner.down("3.0.0")
    named = str(refused.value).removeprefix("the state of the database prevents this: ").partition(": ")[0]
    assert named.split(", ") == [
        "constraint noted_task_fkey on table theirs.noted",
        "materialized view tokens",
        "policy answered on table user_agents",
        "view theirs.again",
        "view theirs.samples",
        "view theirs.totals",
    ]
    assert dump() == before
    # A table with rows is renamed, or its columns are, and the views go on reading them.
    run(
        empty_database,
        """
        DROP SCHEMA theirs CASCADE;
        DROP MATERIALIZED VIEW tokens;
        DROP POLICY answered ON user_agents;
        INSERT INTO public.usage_task_runs VALUES ('refresh', now(), 1, '{}');
        CREATE VIEW public.their_runs AS SELECT task FROM public.usage_task_runs;
        INSERT INTO public.usage_daily (user_id, agent_id, day, reasoning_tokens)
        VALUES (gen_random_uuid(), gen_random_uuid(), '2026-01-31', 7);
        CREATE VIEW public.their_days AS SELECT * FROM public.usage_daily;
        """,
    )
    runner.down("3.0.0")
    assert run(empty_database, "SELECT task FROM public.their_runs") == [("refresh",)]
    assert run(empty_database, "SELECT reasoning_tokens FROM public.their_days") == [(7,)]
    runner.up()
    assert runner.verify() == []


def test_marks_survive_changed_comments_and_restore(empty_database: str, restored: Callable[[], str]) -> None:
    runner = Runner(empty_database)
    nothing = schema(empty_database)
    runner.up()
    run(
        empty_database,
        """
        COMMENT ON TABLE public.agents IS 'mine';
        COMMENT ON TABLE public.user_profiles IS NULL;
        COMMENT ON TABLE auth.users IS 'created by somebody else';
        COMMENT ON FUNCTION auth.uid() IS 'who';
        COMMENT ON SCHEMA auth IS 'who';
        COMMENT ON TABLE public.user_role_assignments IS 'teams';
        """,
    )
    marks = run(empty_database, MARKS)
    url = restored()
    assert run(url, MARKS) == marks
    for moved in (url, empty_database):
        Runner(moved).down(EMPTY)
        assert schema(moved) == nothing
        left = "SELECT relname FROM pg_class WHERE relnamespace IN ('public'::regnamespace, to_regnamespace('auth'))"
        assert {row[0] for row in run(moved, left)} == {"usage_migrations", "usage_migrations_pkey"}


def test_comment_does_not_mark_table(empty_database: str) -> None:
    run(
        empty_database,
        """
        CREATE TABLE public.user_role_assignments (user_id uuid, team_id uuid);
        GRANT SELECT ON public.user_role_assignments TO PUBLIC;
        COMMENT ON TABLE public.user_role_assignments IS 'created by usage-worker';
        """,
    )
    runner = Runner(empty_database)
    runner.up("3.0.0")
    assert runner.verify() == []
    runner.down(EMPTY)
    assert run(empty_database, "SELECT count(*) FROM public.user_role_assignments") == [(0,)]


def test_marks_are_hidden_from_other_roles(empty_database: str) -> None:
    run(
        empty_database,
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC",
    )
    Runner(empty_database).up()
    for table in ("usage_migrations", "usage_migration_objects"):
        with psycopg.connect(empty_database) as connection:
            connection.execute("SET ROLE service_role")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL("SELECT FROM {}").format(sql.Identifier(table)))


@pytest.mark.parametrize("version", [EMPTY, "1.0.0", "2.0.0", "3.0.0"])
def test_empty_tables_are_not_set_aside(empty_database: str, version: str) -> None:
    runner = Runner(empty_database)
    runner.up(None if version == EMPTY else version)
    before = schema(empty_database)
    if version == EMPTY:
        runner.down(EMPTY)
    else:
        runner.up()
        runner.down(version)
        assert schema(empty_database) == before
    assert run(empty_database, "SELECT relname FROM pg_class WHERE relname LIKE '%kept%'") == []


def test_users_and_agents_survive_down_and_up(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up()
    at_4 = schema(empty_database)
    row_id = add_pair(empty_database)
    runner.down(EMPTY)
    assert schema_version(empty_database) is None
    assert run(empty_database, "SELECT count(*) FROM auth.users, public.agents") == [(1,)]
    runner.up()
    assert runner.verify() == []
    assert schema(empty_database) == at_4
    assert run(empty_database, "SELECT id::text FROM public.user_agents") == [(row_id,)]
    run(empty_database, "DELETE FROM public.user_agents; DELETE FROM public.agents; DELETE FROM auth.users")
    run(empty_database, "DELETE FROM public.user_agent_history")
    runner.down(EMPTY)
    assert run(empty_database, "SELECT to_regnamespace('auth')") == [(None,)]
