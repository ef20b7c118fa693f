"""Steps 1 to 4 of "Testing After Migration" in the migration history, and the objects that it lists."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.integration.commands import Cli
from tests.integration.database import add_pair, run
from usage_worker.migrate import Runner, latest_version
from usage_worker.migrate.connection import connect
from usage_worker.migrate.repair import repair
from usage_worker.migrate.verify import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

HISTORY_2_0_0 = Path(__file__).with_name("history_2_0_0.sql")
HISTORY_ROLLBACK = Path(__file__).with_name("history_rollback.sql")


def words(text: str) -> list[str]:
    return text.split()


COLUMNS_2 = words(
    """
    id user_id agent_id original_agent_id is_user_copy added_at last_used_at usage_count is_active metadata created_at
    updated_at
"""
)
COLUMNS_3 = words(
    """
    custom_name custom_description custom_avatar custom_color custom_system_prompt custom_temperature custom_max_tokens
    is_favorite is_pinned folder tags sort_order display_position
    message_count conversation_count success_count error_count
    user_rating quality_score last_rating_at
    avg_response_time_ms total_tokens_used total_cost_usd
    first_used_at archived_at deleted_at
    is_enabled is_visible status
    settings preferences ui_config source_details share_settings notification_settings
    notifications_enabled last_conversation_id notes quick_notes source is_shared shared_with team_id
"""
)
INDEXES_2 = words("user_id agent_id original_agent_id added_at")
INDEXES_3 = words(
    """
    user_id agent_id original_agent_id user_active favorites pinned folder tags status last_used usage_count added_at
    rating quality team shared settings preferences metadata archived deleted user_folder_order user_status_last_used
"""
)
POLICIES_2 = [
    "Service role full access",
    "Users can insert their own",
    "Users can update their own",
    "Users can view their own",
]
POLICIES_3 = [
    "Service role has full access",
    "Team members can view shared agents",
    "Users can delete their own agent relationships",
    "Users can insert their own agent relationships",
    "Users can update their own agent relationships",
    "Users can view their own agent relationships",
]


@pytest.fixture
def at(empty_database: str) -> Callable[[str], str]:
    """Return a function that migrates to a version, adds one row and returns the URL of the database."""

    def migrated(version: str) -> str:
        Runner(empty_database).up(version)
        add_pair(empty_database)
        return empty_database

    return migrated


def names(url: str, query: str) -> list[str]:
    return [row[0] for row in run(url, query)]


@pytest.mark.parametrize(
    ("version", "columns", "indexes", "policies"),
    [
        ("2.0.0", COLUMNS_2, INDEXES_2, POLICIES_2),
        ("3.0.0", COLUMNS_2 + COLUMNS_3, INDEXES_3, POLICIES_3),
    ],
)
def test_structure_indexes_and_policies(
    at: Callable[[str], str], version: str, columns: list[str], indexes: list[str], policies: list[str]
) -> None:
    url = at(version)
    structure = """
        SELECT column_name, data_type, is_nullable FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name = 'user_agents' ORDER BY ordinal_position
    """
    assert names(url, structure) == columns
    required = {name for name, _, nullable in run(url, structure) if nullable == "NO"}
    assert required == {"id", "user_id", "agent_id"}
    checks = "SELECT conname FROM pg_constraint WHERE conrelid = 'public.user_agents'::regclass AND contype = 'c'"
    assert names(url, checks) == []
    assert len(columns) == {"2.0.0": 12, "3.0.0": 55}[version]
    listed = "SELECT indexname FROM pg_indexes WHERE tablename = 'user_agents' AND indexname LIKE 'idx%'"
    assert sorted(names(url, listed)) == sorted(f"idx_user_agents_{name}" for name in indexes)
    assert len(indexes) == {"2.0.0": 4, "3.0.0": 23}[version]
    assert names(url, "SELECT policyname FROM pg_policies WHERE tablename = 'user_agents' ORDER BY 1") == policies
    assert run(url, "SELECT relrowsecurity FROM pg_class WHERE relname = 'user_agents'") == [(True,)]


def test_old_and_new_columns_and_view_agree(at: Callable[[str], str]) -> None:
    url = at("3.0.0")
    assert len(run(url, f"SELECT {', '.join(COLUMNS_2)} FROM public.user_agents")) == 1
    defaults = """
        SELECT custom_name, is_favorite, is_pinned, message_count, total_cost_usd, quality_score, status, settings,
               notification_settings, is_enabled, is_visible, notifications_enabled, is_shared, deleted_at
          FROM public.user_agents
    """
    values = [str(value) for value in run(url, defaults)[0]]
    assert values == [
        *("None", "False", "False", "0", "0E-10", "1.50", "active", "{}"),
        *("{'email': True, 'in_app': True}", "True", "True", "True", "False", "None"),
    ]
    details = "SELECT agent_name, usage_status, success_rate_percent FROM public.user_agents_with_details"
    assert run(url, details) == [("helper", "never_used", None)]
    run(url, "UPDATE public.user_agents SET last_used_at = now(), usage_count = 3, success_count = 2, error_count = 1")
    assert [str(value) for value in run(url, details)[0]] == ["helper", "active", "66.67"]


def test_bounds_of_usage_statuses(at: Callable[[str], str]) -> None:
    url = at("3.0.0")
    for age, expected in (
        ("23:59", "active"),
        ("24:01", "recent"),
        ("6 days 23:59", "recent"),
        ("7 days 00:01", "occasional"),
        ("29 days 23:59", "occasional"),
        ("30 days 00:01", "inactive"),
    ):
        run(url, "UPDATE public.user_agents SET last_used_at = now() - %s::interval", age)
        assert run(url, "SELECT usage_status FROM public.user_agents_with_details") == [(expected,)]


def test_other_objects_of_3_0_0(at: Callable[[str], str]) -> None:
    url = at("3.0.0")
    functions = """
        SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prorettype <> 'trigger'::regtype
        ORDER BY 1
    """
    assert names(url, functions) == [
        *("add_user_agent", "calculate_agent_quality_score", "restore_user_agent", "soft_delete_user_agent"),
        "track_agent_usage",
    ]
    assert names(url, "SELECT viewname FROM pg_views WHERE schemaname = 'public' ORDER BY 1") == [
        *("user_agents_with_details", "user_favorite_agents", "user_popular_agents", "user_recent_agents"),
    ]
    triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'user_agents'::regclass AND NOT tgisinternal ORDER BY 1"
    assert names(url, triggers) == ["user_agents_auto_quality", "user_agents_updated_at"]


def test_table_of_2_0_0_is_that_of_history(empty_database: str, at: Callable[[str], str]) -> None:
    """Columns, defaults, constraints, indexes and names of policies are those of the history's own SQL."""
    run(empty_database, HISTORY_2_0_0.read_text())
    theirs = table_facts(empty_database)
    run(
        empty_database,
        "DROP TABLE public.user_agents, public.agents, public.user_profiles; DROP SCHEMA auth CASCADE",
    )
    assert table_facts(at("2.0.0")) == theirs


def table_facts(url: str) -> set[tuple[str, str]]:
    """Return columns, constraints and indexes of user_agents, and the names of its policies."""
    with connect(url) as connection:
        facts = catalogue(connection)
    own = [fact for fact in facts if fact.belongs_to == "user_agents" and fact.kind != "grant"]
    return {(fact.object, "" if fact.kind == "policy" else fact.definition) for fact in own}


def test_rollback_text_of_history(at: Callable[[str], str]) -> None:
    url = at("3.0.0")
    run(url, HISTORY_ROLLBACK.read_text())
    left = (
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prorettype <> 'trigger'::regtype"
    )
    assert run(url, left) == [(0,)]
    assert "custom_name" not in names(url, "SELECT column_name FROM information_schema.columns")
    run(url, "UPDATE public.user_agents SET usage_count = usage_count + 1, last_used_at = now()")
    assert run(url, "SELECT usage_count, quality_score FROM public.user_agents") == [(1, Decimal("2.00"))]
    runner = Runner(url)
    runner.down("2.0.0")
    assert runner.verify() == []


def test_up_leads_to_repair_after_rollback_text(at: Callable[[str], str], tmp_path: Path) -> None:
    url = at("3.0.0")
    cli = Cli(tmp_path, DATABASE_URL=url)
    assert cli.run("migrate", "up", "--to", "3.0.0").stderr == ""
    run(url, HISTORY_ROLLBACK.read_text())
    run(url, "ALTER TABLE public.user_agents ADD custom_name text, ADD custom_description text")
    # PostgreSQL lets everybody execute a new function.
    granted = "SELECT has_function_privilege('anon', oid, 'execute') FROM pg_proc WHERE proname = 'track_agent_usage'"
    for version in ("3.0.0", latest_version()):
        done = cli.run("migrate", "up", "--to", version)
        assert done.returncode == 0
        assert re.fullmatch(r"\d+ objects are missing or differ; run `usage-worker migrate repair`\n", done.stderr)
    assert run(url, granted) == [(False,)]
    assert repair(url).left == Runner(url).verify() == []
    assert cli.run("migrate", "up").stderr == ""


def test_functions_are_called_by_name(at: Callable[[str], str]) -> None:
    """The same calls work in 3.0.0 and later."""
    url = at("3.0.0")
    user = run(url, "SELECT user_id FROM public.user_agents")[0][0]
    for version in ("3.0.0", latest_version()):
        Runner(url).up(version)
        agent = run(url, "INSERT INTO public.agents (name) VALUES ('new') RETURNING id")[0][0]
        pair = {"user": user, "agent": agent}
        with psycopg.connect(url, autocommit=True) as connection:
            added = connection.execute(
                "SELECT user_id, agent_id, source, folder, usage_count, id IS NOT NULL FROM public.add_user_agent("
                "p_user_id => %(user)s, p_agent_id => %(agent)s, p_source => 'template', p_folder => 'work')",
                pair,
            ).fetchall()
            assert added == [(user, agent, "template", "work", 0, True)]
            connection.execute(
                "SELECT public.track_agent_usage(p_user_id => %(user)s, p_agent_id => %(agent)s, p_success => true,"
                " p_tokens_used => 7, p_cost_usd => 0.5, p_response_time_ms => 100)",
                pair,
            )
            visible = "SELECT is_visible, is_active FROM public.user_agents WHERE agent_id = %(agent)s"
            for function, expected in (("soft_delete", False), ("restore", True), ("soft_delete", False)):
                call = f"SELECT public.{function}_user_agent(p_user_id => %(user)s, p_agent_id => %(agent)s)"
                assert connection.execute(call.encode(), pair).fetchone() == (True,)
                assert connection.execute(visible, pair).fetchone() == (expected, expected)
            connection.execute("SELECT public.add_user_agent(%(user)s, %(agent)s)", pair)
            assert connection.execute(visible, pair).fetchone() == (True, True)
            score = connection.execute(
                "SELECT public.calculate_agent_quality_score("
                "p_user_rating => NULL, p_usage_count => NULL, p_success_count => NULL, p_error_count => NULL)"
            )
            assert score.fetchone() == (Decimal("1.50"),)
        assert Runner(url).verify() == []


@pytest.mark.parametrize("columns", ["name varchar(50), title text, status text", "name text, avatar_url text"])
def test_views_show_what_agents_of_platform_have(empty_database: str, columns: str) -> None:
    run(empty_database, f"CREATE TABLE public.agents (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), {columns})")
    runner = Runner(empty_database)
    runner.up("3.0.0")
    assert runner.verify() == []
    add_pair(empty_database)
    run(empty_database, "UPDATE public.agents SET name = 'n'")
    details = "SELECT agent_name, agent_description, agent_tagline FROM public.user_agents_with_details"
    assert run(empty_database, details) == [("n", None, None)]
    if "title" in columns:
        run(empty_database, "UPDATE public.agents SET title = 't', status = 's'")
        shown = "SELECT agent_display_name, agent_status, agent_avatar FROM public.user_agents_with_details"
        assert run(empty_database, shown) == [("t", "s", None)]
    runner.up()
    assert runner.verify() == []
