"""What user_agents refuses from 4.0.0 on: CHECKs on narrow columns, triggers on texts and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors, sql

from tests.integration.database import add_pair, run
from usage_worker.errors import ObstacleError
from usage_worker.migrate import Runner, schema_version

if TYPE_CHECKING:
    from tests.integration.users import Users

REFUSED = {
    "usage_count": ("-1",),
    "message_count": ("-1",),
    "conversation_count": ("-1",),
    "success_count": ("-1",),
    "error_count": ("-1",),
    "total_tokens_used": ("-1",),
    "total_cost_usd": ("-0.0000000001", "'NaN'"),
    "response_time_total_ms": ("-1",),
    "response_time_samples": ("-1",),
    "avg_response_time_ms": ("-1",),
    "user_rating": ("5.01", "-0.01", "'NaN'"),
    "quality_score": ("5.01", "-0.01"),
    "custom_temperature": ("2.01", "-0.01", "'NaN'"),
    "custom_max_tokens": ("0",),
    "display_position": ("'attic'",),
    "status": ("'gone'", "''"),
    "source": ("'found'",),
}
ALLOWED = {
    "total_cost_usd": "9999999999",
    "user_rating": "5",
    "custom_temperature": "2",
    "custom_max_tokens": "1",
    "display_position": "'hidden'",
    "status": "'disabled'",
    "source": "'recommended'",
}
TEXTS = {
    **dict.fromkeys(("custom_name", "custom_color", "folder"), 255),
    **dict.fromkeys(("custom_description", "custom_avatar", "custom_system_prompt", "notes", "quick_notes"), 100_000),
}
OBJECTS = (
    *("settings", "preferences", "ui_config", "notification_settings", "metadata", "source_details"),
    "share_settings",
)


def test_checks_refuse_values(database: str, users: Users) -> None:
    for column, values in REFUSED.items():
        for value in values:
            with pytest.raises(errors.CheckViolation, match="violates check constraint"):
                run(database, f"UPDATE public.user_agents SET {column} = {value}")
        run(database, f"UPDATE public.user_agents SET {column} = NULL")
        run(database, f"UPDATE public.user_agents SET {column} = {ALLOWED.get(column, '0')}")
    checks = "SELECT conname, convalidated FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'"
    found = run(database, checks, "public.user_agents")
    assert dict(found) == {f"user_agents_{column}_check": True for column in REFUSED}
    assert users.row


@pytest.mark.parametrize("insert", [False, True])
def test_triggers_refuse_contents(database: str, users: Users, insert: bool) -> None:
    cases = [(name, "x" * (most + 1), "\u00e4" * most, f"at most {most} characters") for name, most in TEXTS.items()]
    for name in OBJECTS:
        cases += [(name, value, '{"a": [1]}', "a JSON object") for value in ("[]", "1", "null", '"a"')]
    cases.append(("settings", json.dumps({"a": "x" * 1_000_000}), "{}", "at most 1000000 bytes"))
    for name in ("added_at", "created_at", "archived_at", "deleted_at"):
        cases += [(name, value, "2026-01-01 00:00+00", "a finite time") for value in ("infinity", "-infinity")]
    with psycopg.connect(database, autocommit=True) as connection:
        for name, refused, allowed, limit in cases:
            change = sql.SQL("UPDATE public.user_agents SET {} = %s WHERE id = %s").format(sql.Identifier(name))
            parameters: list[object] = [users.row]
            if insert:
                change = sql.SQL(
                    "WITH gone AS (DELETE FROM public.user_agents WHERE user_id = %s)"
                    " INSERT INTO public.user_agents ({}, user_id, agent_id) VALUES (%s, %s, %s)"
                ).format(sql.Identifier(name))
                parameters = [users.dan, users.agent]
            with pytest.raises(errors.CheckViolation, match=rf"user_agents\.{name}: .*{limit}") as caught:
                connection.execute(change, [users.dan, refused, *parameters] if insert else [refused, *parameters])
            assert caught.value.diag.column_name == name
            if insert:
                connection.execute("DELETE FROM public.user_agents WHERE user_id = %s", [users.dan])
            connection.execute(change, [users.dan, allowed, *parameters] if insert else [allowed, *parameters])
    for tags in ("array_fill('a'::text, '{1001}')", "ARRAY[repeat('x', 256)]"):
        with pytest.raises(errors.CheckViolation, match=r"user_agents\.tags: at most 1000 tags"):
            run(database, f"UPDATE public.user_agents SET tags = {tags}")


def test_old_contents_do_not_prevent_other_changes(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    add_pair(empty_database)
    run(empty_database, "UPDATE public.user_agents SET settings = '[]', custom_name = repeat('x', 300)")
    runner.up()
    run(empty_database, "UPDATE public.user_agents SET notes = 'n', settings = settings, custom_name = custom_name")
    with pytest.raises(errors.CheckViolation, match=r"user_agents\.settings"):
        run(empty_database, "UPDATE public.user_agents SET settings = '[1]'")


def test_counter_updates_do_not_call_triggers_of_contents(database: str, users: Users) -> None:
    broken = "CREATE OR REPLACE FUNCTION public.user_agents_check_contents() RETURNS trigger LANGUAGE plpgsql"
    run(database, f"{broken} AS 'BEGIN RAISE ''called''; END'")
    run(database, "SELECT public.track_agent_usage(%s, %s, true, 5, 0.5, 100)", users.ann, users.agent)
    run(database, "SELECT public.track_agent_usage(%s, %s)", users.bob, users.agent)
    assert run(database, "SELECT sum(usage_count) FROM public.user_agents") == [(2,)]


def test_refused_rows_are_named_before_anything_changes(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    for _ in range(3):
        add_pair(empty_database)
    run(empty_database, "UPDATE public.user_agents SET usage_count = -7")
    negative = "user_agents has 3 rows that violate CHECK ((usage_count >= 0))"
    with pytest.raises(ObstacleError) as refused:
        runner.up()
    assert f"{negative}: correct these rows and run migrate up again, nothing was changed" in str(refused.value)
    assert schema_version(empty_database) == "2.0.0"
    # The versions before have no such CHECK.
    runner.up("3.0.0")
    one = "SELECT id FROM public.user_agents LIMIT 1"
    run(empty_database, f"UPDATE public.user_agents SET total_cost_usd = 'NaN' WHERE id = ({one})")
    runner.down("2.0.0")
    with pytest.raises(ObstacleError) as refused:
        runner.up()
    assert negative in str(refused.value)
    assert "user_agents_kept_3_0_0 has 1 row that violates CHECK (((total_cost_usd >= " in str(refused.value)


def test_every_check_is_looked_for(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    add_pair(empty_database)
    columns = [column for column in REFUSED if column not in {"response_time_total_ms", "response_time_samples"}]
    for column in columns:
        run(empty_database, f"UPDATE public.user_agents SET {column} = {REFUSED[column][0]}")
    with pytest.raises(ObstacleError) as refused:
        runner.up()
    assert [column for column in columns if f"({column} " not in str(refused.value)] == []
