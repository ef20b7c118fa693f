"""Steps 1 to 4 of "Testing After Migration" in the migration history, and the objects that it lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import errors

from tests.integration.database import add_pair, run
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    from collections.abc import Callable


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
OWN = ["user_agents_insert_own", "user_agents_select_own", "user_agents_service_role", "user_agents_update_own"]


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
        ("2.0.0", COLUMNS_2, INDEXES_2, OWN),
        (
            "3.0.0",
            COLUMNS_2 + COLUMNS_3,
            INDEXES_3,
            sorted([*OWN, "user_agents_delete_own", "user_agents_select_team"]),
        ),
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


def test_check_constraints_refuse_other_values(at: Callable[[str], str]) -> None:
    url = at("3.0.0")
    for change in (
        "display_position = 'attic'",
        "status = 'gone'",
        "source = 'found'",
        "user_rating = 5.01",
        "user_rating = -0.01",
        "quality_score = 5.01",
    ):
        with pytest.raises(errors.CheckViolation):
            run(url, f"UPDATE public.user_agents SET {change}")


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
