"""Users cannot change the owner of a row or its counters, and clients of 3.0.0 keep working."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest

from tests.access.sample import AGENT, OWNER, RECIPIENT, ROLES, ROW, STRANGER, act_as
from usage_worker.migrate import Runner
from usage_worker.store.connection import Store
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from tests.access.sample import Connection

FORBIDDEN = psycopg.errors.InsufficientPrivilege
KEPT = psycopg.errors.RestrictViolation
OTHER_AGENT = UUID(int=50)


@pytest.fixture
def shared(connection: Connection) -> Connection:
    connection.execute("UPDATE public.user_agents SET is_shared = true")
    connection.execute("INSERT INTO public.agents (id, name) VALUES (%s, 'other')", [OTHER_AGENT])
    return connection


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE public.user_agents SET user_id = auth.uid()",
        "UPDATE public.user_agents SET user_id = auth.uid() WHERE id = %(row)s",
        "UPDATE public.user_agents SET shared_with = NULL WHERE id = %(row)s",
        "DELETE FROM public.user_agents WHERE id = %(row)s",
    ],
)
@pytest.mark.parametrize("taker", ["shared_with", "team_id", "stranger"])
def test_others_cannot_take_over_row(shared: Connection, taker: str, statement: str) -> None:
    act_as(shared, ROLES[taker])
    assert shared.execute(statement.encode(), {"row": ROW}).rowcount == 0


@pytest.mark.parametrize("taker", ["shared_with", "stranger"])
def test_others_cannot_take_over_row_by_upsert(shared: Connection, taker: str) -> None:
    """An upsert that conflicts with the owner's row neither changes nor reveals it."""
    upserts = (
        "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s)"
        " ON CONFLICT (user_id, agent_id) DO UPDATE SET notes = 'mine'",
        "INSERT INTO public.user_agents (id, user_id, agent_id) VALUES (%s, auth.uid(), %s)"
        " ON CONFLICT (id) DO UPDATE SET user_id = auth.uid()",
    )
    act_as(shared, ROLES[taker])
    for upsert, key in zip(upserts, (OWNER, ROW), strict=True):
        with pytest.raises(FORBIDDEN, match="row-level security policy"), shared.transaction():
            shared.execute(upsert.encode(), [key, AGENT])


def test_owner_cannot_give_row_away(shared: Connection) -> None:
    act_as(shared, ROLES["owner"])
    for new_owner in (RECIPIENT, STRANGER):
        with pytest.raises(FORBIDDEN, match="row-level security policy"), shared.transaction():
            shared.execute("UPDATE public.user_agents SET user_id = %s", [new_owner])


@pytest.mark.parametrize("role", ["owner", "service role"])
@pytest.mark.parametrize("column", ["id", "agent_id"])
def test_row_keeps_its_key(shared: Connection, role: str, column: str) -> None:
    act_as(shared, ROLES[role])
    with pytest.raises(KEPT, match="keeps its id, its user and its agent"):
        shared.execute(f"UPDATE public.user_agents SET {column} = %s".encode(), [OTHER_AGENT])


@pytest.mark.parametrize(
    "column",
    ["usage_count", "total_cost_usd", "response_time_samples", "quality_score", "last_used_at", "last_conversation_id"],
)
def test_users_cannot_write_counters(shared: Connection, column: str) -> None:
    act_as(shared, ROLES["owner"])
    with pytest.raises(FORBIDDEN, match="permission denied for table user_agents"), shared.transaction():
        shared.execute(f"UPDATE public.user_agents SET {column} = DEFAULT, notes = 'x'".encode())
    statement = f"INSERT INTO public.user_agents (user_id, agent_id, {column}) VALUES (%s, %s, DEFAULT)"
    with pytest.raises(FORBIDDEN, match="permission denied for table user_agents"):
        shared.execute(statement.encode(), [OWNER, OTHER_AGENT])


@pytest.mark.parametrize("values", ["-1, 0, NULL", "0, -0.5, NULL", "0, 'NaN', NULL", "0, 0, -1", "0, 1000000.1, NULL"])
def test_call_cannot_lower_counters(shared: Connection, values: str) -> None:
    act_as(shared, ROLES["owner"])
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="out of bounds"):
        shared.execute(f"SELECT public.track_agent_usage(%s, %s, true, {values})".encode(), [OWNER, AGENT])


def test_clients_of_3_0_0_keep_working(database: str) -> None:
    """Statements of an application that writes as its user, with the upsert of PostgREST."""
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO auth.users (id) VALUES (%s)", [OWNER])
        connection.execute("INSERT INTO public.agents (id, name) VALUES (%s, 'a')", [AGENT])
        connection.commit()
        for statement in (
            "INSERT INTO public.user_agents (user_id, agent_id, folder, tags) VALUES (%s, %s, 'work', '{a}')",
            "INSERT INTO public.user_agents (user_id, agent_id, folder) VALUES (%s, %s, 'home')"
            " ON CONFLICT (user_id, agent_id) DO UPDATE SET user_id = excluded.user_id,"
            " agent_id = excluded.agent_id, folder = excluded.folder",
            "UPDATE public.user_agents SET custom_name = 'M', updated_at = now() WHERE (user_id, agent_id) = (%s,%s)",
            "UPDATE public.user_agents SET user_rating = 4, last_rating_at = now() WHERE (user_id, agent_id) = (%s,%s)",
            "SELECT public.track_agent_usage(%s, %s, true, 10, 0.5, 100)",
            "SELECT public.soft_delete_user_agent(%s, %s)",
            "SELECT public.restore_user_agent(%s, %s)",
            "SELECT public.soft_delete_user_agent(%s, %s)",
            "SELECT public.add_user_agent(%s, %s, 'template', 'work')",
        ):
            act_as(connection, ROLES["owner"])
            assert connection.execute(statement.encode(), [OWNER, AGENT]).rowcount == 1
            connection.commit()
        row = "SELECT folder, custom_name, user_rating, quality_score, usage_count, deleted_at FROM public.user_agents"
        assert connection.execute(row.encode()).fetchall() == [("work", "M", 4, 4, 1, None)]
        connection.commit()
        check_balanced(database)
        act_as(connection, ROLES["owner"])
        connection.execute("DELETE FROM public.user_agents")
        connection.execute("INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s)", [OWNER, AGENT])
        connection.commit()
        assert connection.execute("SELECT usage_count FROM public.user_agents").fetchall() == [(0,)]
    check_balanced(database)


def test_down_restores_right_to_write_counters(database: str) -> None:
    right = "SELECT has_column_privilege('authenticated', 'public.user_agents', 'usage_count', 'UPDATE')"
    with psycopg.connect(database, autocommit=True) as connection:
        assert connection.execute(right.encode()).fetchone() == (False,)
        Runner(database).down("3.0.0")
        assert connection.execute(right.encode()).fetchone() == (True,)
        Runner(database).up()
        assert connection.execute(right.encode()).fetchone() == (False,)


def check_balanced(database: str) -> None:
    store = Store(database)
    try:
        assert store.rows(testing_query("unbalanced")) == []
    finally:
        store.close()


def test_users_read_own_ids_of_what_they_may_see(connection: Connection) -> None:
    """Their own, those of their conversations, and those of agents that they see; and so does `usage_uuid_of`."""
    connection.execute("INSERT INTO public.agents (id, name, is_active) VALUES (%s, 'hidden', false)", [OTHER_AGENT])
    talk = "SELECT conversation_id FROM public.user_agent_conversations"
    connection.execute(
        f"""
        INSERT INTO public.usage_external_ids (kind, id, external_id) VALUES
            ('user', %(stranger)s, 'stranger'), ('user', ({talk}), 'no user'),
            ('agent', %(agent)s, 'seen'), ('agent', %(other)s, 'hidden'), ('agent', %(owner)s, 'no agent'),
            ('conversation', ({talk}), 'talk'), ('conversation', %(owner)s, 'no talk')
        """.encode(),
        {"owner": OWNER, "stranger": STRANGER, "agent": AGENT, "other": OTHER_AGENT},
    )
    readable = {"owner": {"owner 42", "talk", "seen"}, "stranger": {"stranger", "seen"}, "recipient": {"seen"}}
    readable["ingest"] = readable["service role"] = {
        *("owner 42", "stranger", "no agent", "no talk", "seen", "hidden", "talk", "no user"),
    }
    for role, expected in readable.items():
        with connection.transaction(force_rollback=True):
            act_as(connection, ROLES["shared_with" if role == "recipient" else role])
            found = connection.execute("SELECT kind, id, external_id FROM public.usage_external_ids").fetchall()
            assert {external_id for _, _, external_id in found} == expected, role
            for kind, uuid, external_id in found:
                row = connection.execute("SELECT public.usage_uuid_of(%s, %s)", [kind, external_id]).fetchone()
                assert row == (uuid,)
            others = connection.execute(
                "SELECT public.usage_uuid_of('user', 'nobody'), public.usage_uuid_of('agent', 'owner 42')"
            ).fetchone()
            assert others == (None, None)
    act_as(connection, ROLES["owner"])
    hidden = "SELECT public.usage_uuid_of('agent', 'hidden'), public.usage_uuid_of('user', 'stranger')"
    assert connection.execute(hidden).fetchone() == (None, None)
