"""`migrate adopt`: what the history's SQL or psql made is completed, upgraded, and never dropped."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.integration.commands import PROGRAM, Cli
from tests.integration.database import add_pair, run, schema
from usage_worker.errors import MigrationError, ObstacleError
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import EMPTY, Runner, discover, schema_version
from usage_worker.migrate.adoption import adopt, examine
from usage_worker.migrate.files import version_key
from usage_worker.migrate.queries import query
from usage_worker.settings import Settings
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import Postgres

HISTORY = Path(__file__).parent
OLD = (
    "md5(string_agg((id, user_id, agent_id, usage_count, notes, message_count, total_cost_usd)::text, '' ORDER BY id))"
)


def history_2(url: str, _: Postgres) -> None:
    run(url, (HISTORY / "history_2_0_0.sql").read_text())


def history_3(url: str, postgres: Postgres) -> None:
    history_2(url, postgres)
    run(url, (HISTORY / "history_3_0_0.sql").read_text())


def files_up_to(version: str) -> Callable[[str, Postgres], None]:
    def run_files(url: str, postgres: Postgres) -> None:
        steps = (it for it in discover() if version_key(it.version) <= version_key(version))
        files = [argument for migration in steps for argument in ("-f", str(migration.up))]
        psql = [str(postgres.bin_dir / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", url, *files]
        subprocess.run(psql, check=True, capture_output=True)
        if version != "1.0.0":
            add_pair(url)
            run(url, "UPDATE public.user_agents SET metadata = '{}', is_active = false")

    return run_files


MADE = {
    "history 2.0.0": (history_2, "2.0.0"),
    "history 3.0.0": (history_3, "3.0.0"),
    **{f"files {version}": (files_up_to(version), version) for version in ("1.0.0", "2.0.0", "3.0.0", "4.0.0")},
}


def contents(url: str) -> list[tuple[object, ...]]:
    """Rows of user_agents in the columns that they may have, without those that a trigger or a default sets."""
    columns = "to_jsonb(t) - '{updated_at,quality_score}'::text[]"
    found = run(url, f"SELECT {columns} FROM public.user_agents AS t ORDER BY id")
    return [
        tuple(sorted((name, str(value)) for name, value in row.items() if name in KEPT and value is not None))
        for (row,) in found
    ]


KEPT = {
    *("id", "user_id", "agent_id", "usage_count", "is_active", "added_at", "notes", "tags", "message_count"),
    *("success_count", "error_count", "total_tokens_used", "avg_response_time_ms"),
}


@pytest.mark.parametrize("name", MADE)
def test_adopted_database_goes_up_and_down(empty_database: str, postgres: Postgres, tmp_path: Path, name: str) -> None:
    make, version = MADE[name]
    make(empty_database, postgres)
    url = empty_database
    before = contents(url) if version != "1.0.0" else []
    assert examine(url).version == version
    done = json.loads(Cli(tmp_path, DATABASE_URL=url).run("migrate", "adopt", "--yes", "--json").stdout)
    foreign = {"Support reads", "theirs"} if name == "history 3.0.0" else set()
    assert {it["object"].removeprefix("user_agents.") for it in done["left"]} == foreign
    assert all("drop it if it is not wanted" in it["problem"] for it in done["left"])
    if foreign:
        run(url, 'DROP POLICY "Support reads" ON user_agents; DROP INDEX theirs')
    runner = Runner(url)
    assert runner.verify() == []
    assert {name for (name,) in run(url, query("uncommented")) if name.startswith("user_agent")} == set()
    assert schema_version(url) == version
    assert before == (contents(url) if before else [])

    runner.up()
    assert runner.verify() == []
    with Store(url) as store:
        assert reconcile(store, Settings(DATABASE_URL=url)).differences == []
    if before:
        assert [set(row) <= set(now) for row, now in zip(before, contents(url), strict=True)] == [True] * len(before)

    for target in ("1.0.0", EMPTY):
        runner.down(target)
        assert schema_version(url) == (None if target == EMPTY else target)
        if before:
            now = contents(url)
            assert [set(row) <= set(it) for row, it in zip(before, now, strict=True)] == [True] * len(before)
    assert run(url, "SELECT count(*) > 0 FROM pg_tables WHERE tablename IN ('agents', 'user_profiles', 'users')")


def test_adopted_columns_stay_through_down_and_up(empty_database: str, postgres: Postgres) -> None:
    history_3(empty_database, postgres)
    run(empty_database, 'DROP INDEX theirs; DROP POLICY "Support reads" ON user_agents')
    adopt(empty_database)
    runner = Runner(empty_database)
    for target in ("2.0.0", "1.0.0"):
        runner.up("3.0.0")
        runner.down(target)
        assert run(empty_database, "SELECT DISTINCT notes, tags FROM public.user_agents") == [("kept", ["a", "b"])]
    assert examine(empty_database).version == "3.0.0"
    adopt(empty_database)
    assert runner.verify() == []


def test_adoption_asks_on_a_terminal(empty_database: str, postgres: Postgres, tmp_path: Path) -> None:
    history_2(empty_database, postgres)
    before = schema(empty_database)
    cli = Cli(tmp_path, DATABASE_URL=empty_database)
    code, text = cli.on_terminal("n\n", "migrate", "adopt")
    assert (code, "table user_agents to authenticated" in text, "adopted as 2.0.0" in text) == (1, True, True)
    assert "nothing was changed" in text
    assert schema(empty_database) == before
    code, text = cli.on_terminal("y\n", "migrate", "adopt", "--json", errors=subprocess.DEVNULL)
    assert (code, schema_version(empty_database)) == (0, "2.0.0"), text
    assert json.loads(text)["left"] == []


def test_killed_adoption_leaves_the_database_as_it_was(empty_database: str, postgres: Postgres, tmp_path: Path) -> None:
    history_3(empty_database, postgres)
    before = schema(empty_database)
    cli = Cli(tmp_path, DATABASE_URL=empty_database)
    command = [PROGRAM, "migrate", "adopt", "--yes"]
    with psycopg.connect(empty_database) as blocker:
        blocker.execute("LOCK TABLE public.agents, public.user_agents")
        with subprocess.Popen(command, cwd=cli.folder, env=cli.env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            assert "trying again" in process.stderr.readline()
            process.kill()
    assert schema(empty_database) == before
    adopt(empty_database)
    assert schema_version(empty_database) == "3.0.0"


def test_table_of_another_kind_is_refused(empty_database: str, tmp_path: Path) -> None:
    run(empty_database, "CREATE TABLE public.user_agents (id bigint PRIMARY KEY, note text)")
    before = schema(empty_database)
    cli = Cli(tmp_path, DATABASE_URL=empty_database)
    assert "columns of 2.0.0 are missing: user_agents.added_at" in cli.error_line("migrate adopt --yes")
    assert schema(empty_database) == before
    assert run(empty_database, "SELECT to_regclass('public.usage_migrations')") == [(None,)]


def test_what_does_not_fit_is_refused(empty_database: str, postgres: Postgres, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="nothing to adopt"):
        examine(empty_database)
    history_2(empty_database, postgres)
    before = schema(empty_database)
    cli = Cli(tmp_path, DATABASE_URL=empty_database)
    assert "2.0.0; " in (line := cli.error_line("migrate adopt"))
    assert "--yes" in line
    with pytest.raises(ObstacleError, match=r"columns of 3\.0\.0 are missing: user_agents.archived_at"):
        adopt(empty_database, "3.0.0")
    with pytest.raises(ObstacleError, match=r"has the columns of 2\.0\.0, not of 1\.0\.0"):
        adopt(empty_database, "1.0.0")
    for change, refusal in (
        ("ALTER TABLE user_agents ADD notes text", "columns of 3.0.0 are missing"),
        ("ALTER TABLE user_agents DROP notes, ALTER usage_count TYPE text", "user_agents.usage_count is text"),
        (
            "ALTER TABLE user_agents ALTER usage_count DROP DEFAULT, ALTER usage_count TYPE integer USING 0;"
            " ALTER TABLE user_agents DROP CONSTRAINT user_agents_user_id_agent_id_key;"
            " INSERT INTO user_agents (user_id, agent_id) SELECT user_id, agent_id FROM user_agents LIMIT 1",
            "constraint user_agents.user_agents_user_id_agent_id_key",
        ),
    ):
        run(empty_database, change)
        before = schema(empty_database)
        with pytest.raises(ObstacleError, match=refusal):
            adopt(empty_database)
        assert schema(empty_database) == before
    assert run(empty_database, "SELECT to_regclass('public.usage_migrations')") == [(None,)]


def test_types_are_converted_without_loss(empty_database: str, postgres: Postgres) -> None:
    history_3(empty_database, postgres)
    run(
        empty_database,
        """
        DROP VIEW user_favorite_agents, user_agents_with_details;
        DROP POLICY "Support reads" ON user_agents;
        ALTER TABLE user_agents ALTER total_tokens_used TYPE smallint, ALTER total_cost_usd TYPE integer,
            ALTER user_rating TYPE integer, ALTER quality_score TYPE numeric(2, 1),
            ALTER notes TYPE varchar(20), ALTER tags TYPE varchar(9)[], ALTER status TYPE varchar;
        UPDATE user_agents SET total_cost_usd = 12, user_rating = 4;
        """,
    )
    changed = [it for it in examine(empty_database).differs if it.kind == "column"]
    assert {"user_agents.tags", "user_agents.total_cost_usd", "user_agents.notes"} <= {it.object for it in changed}
    assert any(it.problem.startswith("is character varying(9)[], expected text[]") for it in changed)
    adopt(empty_database)
    now = "SELECT DISTINCT total_tokens_used, total_cost_usd, user_rating, notes, tags FROM user_agents"
    assert run(empty_database, now) == [(1000, 12, 4, "kept", ["a", "b"])]
    assert {it.object for it in Runner(empty_database).verify()} == {"theirs"}


def test_lossy_types_are_refused_with_their_statements(empty_database: str, postgres: Postgres) -> None:
    history_3(empty_database, postgres)
    run(
        empty_database,
        """
        DROP VIEW user_favorite_agents, user_agents_with_details;
        ALTER TABLE user_agents ALTER archived_at TYPE timestamp, ALTER settings TYPE json,
            ALTER notes TYPE character(9), ALTER total_cost_usd TYPE double precision, ALTER usage_count TYPE bigint,
            ALTER total_tokens_used DROP DEFAULT, ALTER total_tokens_used TYPE text, ALTER metadata DROP DEFAULT;
        ALTER TABLE user_agents ALTER source SET DEFAULT 'x', ALTER source TYPE character(4);
        UPDATE user_agents SET archived_at = '2025-01-01 12:00', settings = '{"b": 1, "a": 2}', source = 'xy';
        """,
    )
    before = schema(empty_database)
    with pytest.raises(ObstacleError) as refused:
        adopt(empty_database)
    assert schema(empty_database) == before
    message = str(refused.value)
    assert "column user_agents.settings is json, expected jsonb: run ALTER TABLE public.user_agents " in message
    assert "in which its values were written" in message
    advice = message.removesuffix(", nothing was changed").split("; ")
    statements = [it.partition(": run ")[2].partition(" with the time zone")[0] for it in advice]
    assert len(statements) == 7
    for statement in statements:
        run(empty_database, statement)
    adopt(empty_database)
    kept = "SELECT DISTINCT archived_at = '2025-01-01 12:00Z', settings, source, total_tokens_used FROM user_agents"
    assert run(empty_database, kept) == [(True, {"a": 2, "b": 1}, "xy", 1000)]


def test_number_that_does_not_fit_is_refused(empty_database: str, postgres: Postgres) -> None:
    history_3(empty_database, postgres)
    run(empty_database, "DROP VIEW user_favorite_agents, user_agents_with_details")
    run(empty_database, "ALTER TABLE user_agents ALTER total_cost_usd TYPE bigint")
    run(empty_database, "UPDATE user_agents SET total_cost_usd = 10000000000")
    before = schema(empty_database)
    with pytest.raises(ObstacleError, match=r"user_agents.total_cost_usd .*numeric field overflow"):
        adopt(empty_database)
    assert schema(empty_database) == before
