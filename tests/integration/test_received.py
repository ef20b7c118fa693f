"""What the receiver of a share may read, change, accept and decline."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.users import FORBIDDEN, Users, session_as

if TYPE_CHECKING:
    from uuid import UUID

EDITABLE = {
    *("custom_name", "custom_description", "custom_avatar", "custom_color", "custom_system_prompt"),
    *("custom_temperature", "custom_max_tokens"),
    *("is_favorite", "is_pinned", "folder", "tags", "sort_order", "display_position"),
}
# Each column of user_agents with another value than the row of the sample has.
OTHER_VALUES = """
    SELECT attname::text,
           CASE WHEN attname = 'display_position' THEN 'hidden'
                WHEN attname = 'status' THEN 'paused'
                WHEN attname = 'source' THEN 'custom'
                WHEN atttypid = 'boolean'::regtype THEN (NOT (to_jsonb(ua) ->> attname)::boolean)::text
                WHEN atttypid = 'uuid'::regtype THEN gen_random_uuid()::text
                WHEN atttypid IN ('uuid[]'::regtype, 'text[]'::regtype) THEN '{6f2c8a52-3c1f-4c39-9d5e-0b6d4f1f8a01}'
                WHEN atttypid = 'jsonb'::regtype THEN '{"changed": true}'
                WHEN atttypid = 'timestamptz'::regtype THEN '2020-01-01 00:00+00'
                ELSE '1' END
      FROM pg_attribute, public.user_agents AS ua
     WHERE attrelid = 'public.user_agents'::regclass AND attnum > 0 AND NOT attisdropped
"""
WHOLE = "SELECT to_jsonb(ua) - 'updated_at' FROM public.user_agents AS ua"
RECEIVED = "SELECT share_id, shared_by, permission, state, agent_id FROM public.user_agents_shared_with_me"
GIVE = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user) VALUES (%s, %s)"


def rows_as(url: str, user: UUID, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    """Execute a statement as the user and return its rows."""
    with session_as(url, "authenticated", user) as session:
        cursor = session.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def editor(database: str, users: Users) -> Users:
    """Bob may edit the row, and the row has a column that no list names and every user may write."""
    run(database, "UPDATE public.user_agent_shares SET permission = 'edit'")
    run(database, "ALTER TABLE public.user_agents ADD new_column text")
    run(database, "GRANT UPDATE (new_column) ON public.user_agents TO authenticated")
    return users


def test_editor_changes_only_listed_columns(database: str, editor: Users) -> None:
    changed = set()
    before = run(database, WHOLE)[0][0]
    with session_as(database, "authenticated", editor.bob) as session:
        for column, value in run(database, OTHER_VALUES):
            update = f"UPDATE public.user_agents SET {column} = %s WHERE id = %s"
            try:
                assert session.execute(update.encode(), [value, editor.row]).rowcount == 1, column
            except (FORBIDDEN, psycopg.errors.RestrictViolation):
                continue
            changed.add(column)
    # The time of the update is set by a trigger, whatever the statement says.
    assert changed - {"updated_at"} == EDITABLE
    after = run(database, WHOLE)[0][0]
    assert {column for column in before if before[column] != after[column]} == EDITABLE


def test_editor_is_told_which_columns_belong_to_owner(database: str, editor: Users) -> None:
    update = "UPDATE public.user_agents SET folder = 'x', status = 'paused', is_active = false"
    with pytest.raises(FORBIDDEN, match="only the owner of this row may change is_active, status"):
        rows_as(database, editor.bob, update)


def test_editor_changes_row_with_notes_by_function(database: str, editor: Users) -> None:
    rows_as(database, editor.ann, "UPDATE public.user_agents SET notes = 'secret'")
    edit = "SELECT public.edit_shared_agent(%s, %s)"
    for column, value in run(database, OTHER_VALUES):
        parsed = value if column != "tags" else ["a"]
        if column in EDITABLE:
            assert rows_as(database, editor.bob, edit, editor.row, json.dumps({column: parsed})) == [(True,)]
        else:
            with pytest.raises(FORBIDDEN, match=f"only the owner of this row may change {column}"):
                rows_as(database, editor.bob, edit, editor.row, json.dumps({"folder": "y", column: value}))
    assert run(database, "SELECT folder, tags, notes FROM public.user_agents") == [("1", ["a"], "secret")]
    for other in (editor.ann, editor.dan):
        assert rows_as(database, other, edit, editor.row, '{"folder": "z"}') == [(False,)]
    assert rows_as(database, editor.bob, edit, uuid.uuid4(), '{"folder": "z"}') == [(False,)]
    run(database, "UPDATE public.user_agent_shares SET permission = 'use'")
    assert rows_as(database, editor.bob, edit, editor.row, '{"folder": "z"}') == [(False,)]


def test_update_of_editor_ignores_events_counted_meanwhile(database: str, editor: Users) -> None:
    update = "UPDATE public.user_agents SET folder = 'mine'"
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(database) as counting:
        counting.execute("UPDATE public.user_agents SET usage_count = usage_count + 1")
        updating = pool.submit(rows_as, database, editor.bob, update)
        eventually(lambda: run(database, waiting))
        counting.commit()
        updating.result()
    assert run(database, "SELECT folder, usage_count FROM public.user_agents") == [("mine", 1)]


@pytest.mark.parametrize("column", ["notes", "quick_notes"])
def test_notes_are_private_to_owner(database: str, editor: Users, column: str) -> None:
    secret = "the secret of Ann"
    rows_as(database, editor.ann, f"UPDATE public.user_agents SET {column} = %s", secret)
    relations = (
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'v', 'p') AND relnamespace = 'public'::regnamespace"
    )
    for (relation,) in [*run(database, relations), ("user_agents_received()",)]:
        for user in (editor.bob, editor.cid, editor.dan):
            try:
                found = rows_as(database, user, f"SELECT to_jsonb(r)::text FROM public.{relation} AS r")
            except FORBIDDEN:
                continue
            assert secret not in str(found), relation
    for user in (editor.bob, editor.cid):
        for statement in (
            f"UPDATE public.user_agents SET custom_name = {column}",
            f"UPDATE public.user_agents SET folder = 'x' WHERE {column} = 'the secret of Ann'",
            f"UPDATE public.user_agents SET {column} = 'the secret of Ann' RETURNING {column}",
        ):
            assert secret not in str(rows_as(database, user, statement) if "RETURNING" in statement else "")
            rows_as(database, user, statement)
        seen = "SELECT user_agent_id, agent_id FROM public.user_agents_shared_with_me"
        assert rows_as(database, user, seen) == [(editor.row, editor.agent)]
        assert rows_as(database, user, "SELECT id, notes, quick_notes FROM public.user_agents_received()") == [
            (editor.row, None, None)
        ]
    whole = f"SELECT {column}, custom_name, folder FROM public.user_agents"
    assert rows_as(database, editor.ann, whole) == [(secret, None, None)]
    rows_as(database, editor.ann, f"UPDATE public.user_agents SET {column} = ''")
    assert rows_as(database, editor.bob, "SELECT id FROM public.user_agents") == [(editor.row,)]


def test_receiver_declines_and_accepts_share(database: str, users: Users) -> None:
    share = run(database, "SELECT id FROM public.user_agent_shares WHERE shared_with_user IS NOT NULL")[0][0]
    assert rows_as(database, users.bob, RECEIVED) == [(share, users.ann, "view", "pending", users.agent)]
    assert rows_as(database, users.bob, "SELECT public.accept_share(%s)", share) == [(True,)]
    assert rows_as(database, users.bob, RECEIVED) == [(share, users.ann, "view", "accepted", users.agent)]
    assert rows_as(database, users.bob, "SELECT public.decline_share(%s)", share) == [(True,)]
    assert rows_as(database, users.bob, RECEIVED) == [(share, users.ann, "view", "declined", None)]
    assert rows_as(database, users.bob, "SELECT id FROM public.user_agents") == []
    # A declined receiver leaves the columns of 3.0.0, and a change of the share does not bring him back.
    columns = "SELECT is_shared, shared_with, team_id FROM public.user_agents"
    assert run(database, columns) == [(True, None, users.team)]
    rows_as(database, users.ann, "UPDATE public.user_agent_shares SET permission = 'edit', expires_at = '2999-01-01'")
    for relation in ("user_agents", "user_agents_received()", "user_agents_with_details"):
        assert rows_as(database, users.bob, f"SELECT id FROM public.{relation}") == []
    with pytest.raises(FORBIDDEN):
        rows_as(database, users.ann, "UPDATE public.user_agent_shares SET declined_by = '{}'")
    # Naming the user again in the columns is a new offer.
    rows_as(database, users.ann, "UPDATE public.user_agents SET shared_with = %s", [users.bob])
    assert rows_as(database, users.bob, RECEIVED) == [(share, users.ann, "view", "pending", users.agent)]
    actions = "SELECT action, actor FROM public.user_agent_history WHERE action IN ('accept', 'decline') ORDER BY id"
    assert run(database, actions) == [("accept", users.bob), ("decline", users.bob)]


def test_member_declines_share_of_team_for_himself(database: str, users: Users) -> None:
    run(database, "INSERT INTO public.user_role_assignments VALUES (%s, %s)", users.dan, users.team)
    share = run(database, "SELECT id FROM public.user_agent_shares WHERE shared_with_team IS NOT NULL")[0][0]
    assert rows_as(database, users.cid, "SELECT public.decline_share(%s)", share) == [(True,)]
    seen = "SELECT id FROM public.user_agents"
    assert rows_as(database, users.cid, seen) == []
    assert rows_as(database, users.dan, seen) == [(users.row,)]
    assert run(database, "SELECT team_id FROM public.user_agents") == [(users.team,)]
    assert rows_as(database, users.cid, "SELECT public.accept_share(%s)", share) == [(True,)]
    assert rows_as(database, users.cid, seen) == [(users.row,)]


def test_only_receiver_answers_share(database: str, users: Users) -> None:
    share = run(database, "SELECT id FROM public.user_agent_shares WHERE shared_with_user IS NOT NULL")[0][0]
    for function in ("accept_share", "decline_share"):
        for user in (users.ann, users.cid, users.dan):
            for known in (share, uuid.uuid4()):
                assert rows_as(database, user, f"SELECT public.{function}(%s)", known) == [(False,)]
    assert rows_as(database, users.bob, RECEIVED.replace("share_id, ", ""))[0][2] == "pending"


def test_unknown_and_foreign_rows_answer_alike(database: str, users: Users) -> None:
    def answer(statement: str, *parameters: object) -> object:
        try:
            return rows_as(database, users.dan, statement, *parameters)
        except psycopg.Error as error:
            return error.sqlstate, error.diag.message_primary, error.diag.message_detail

    for statement in (
        GIVE,
        f"{GIVE} ON CONFLICT DO NOTHING",
        "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_team) VALUES (%s, %s)",
    ):
        # The pair of row and receiver exists already.
        for receiver in (users.bob, users.dan, uuid.uuid4()):
            foreign = answer(statement, users.row, receiver)
            assert foreign == answer(statement, uuid.uuid4(), receiver)
            assert str(foreign).startswith("('42501'")
    edit = """SELECT public.edit_shared_agent(%s, '{"folder": "x"}')"""
    assert answer(edit, users.row) == answer(edit, uuid.uuid4()) == [(False,)]


def test_refused_edit_quotes_no_notes(database: str, editor: Users) -> None:
    run(database, "UPDATE public.user_agents SET notes = 'a secret' WHERE id = %s", editor.row)
    for changes in ('{"custom_temperature": 9}', '{"display_position": "attic"}', '{"folder": "%s"}' % ("x" * 300)):
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            rows_as(database, editor.bob, "SELECT public.edit_shared_agent(%s, %s)", editor.row, changes)
        assert (refused.value.diag.message_detail, "secret" in str(refused.value)) == (None, False)


def test_edit_that_waited_for_the_end_of_its_share_changes_nothing(database: str, editor: Users) -> None:
    with session_as(database, "authenticated", editor.ann) as owner, ThreadPoolExecutor(1) as pool:
        with owner.transaction():
            owner.execute("DELETE FROM public.user_agent_shares WHERE user_agent_id = %s", [editor.row])
            edit = 'SELECT public.edit_shared_agent(%s, \'{"folder": "taken"}\')'
            edited = pool.submit(rows_as, database, editor.bob, edit, editor.row)
            eventually(lambda: run(database, "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        assert edited.result() == [(False,)]
    assert run(database, "SELECT count(*) FROM public.user_agents WHERE folder = 'taken'") == [(0,)]


def test_answer_waits_for_the_owner_instead_of_deadlocking(database: str, users: Users) -> None:
    ((share,),) = run(database, "SELECT id::text FROM public.user_agent_shares WHERE shared_with_user = %s", users.bob)
    with session_as(database, "authenticated", users.ann) as owner, ThreadPoolExecutor(1) as pool:
        with owner.transaction():
            owner.execute("UPDATE public.user_agents SET folder = 'mine' WHERE id = %s", [users.row])
            declined = pool.submit(rows_as, database, users.bob, "SELECT public.decline_share(%s)", share)
            eventually(lambda: run(database, "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
            owner.execute("UPDATE public.user_agents SET shared_with = ARRAY[%s] WHERE id = %s", [users.dan, users.row])
        assert declined.result() == [(True,)]


def test_repeated_answer_is_recorded_once(database: str, users: Users) -> None:
    ((share,),) = run(database, "SELECT id::text FROM public.user_agent_shares WHERE shared_with_user = %s", users.bob)
    recorded = "SELECT action FROM public.user_agent_history WHERE action IN ('accept', 'decline', 'share') ORDER BY id"
    before = run(database, recorded)
    for function in ("accept_share", "accept_share", "decline_share", "decline_share", "accept_share"):
        assert rows_as(database, users.bob, f"SELECT public.{function}(%s)", share) == [(True,)]
    assert run(database, recorded)[len(before) :] == [("accept",), ("decline",), ("accept",)]


def test_received_shares_are_looked_up_once(database: str, users: Users) -> None:
    """Once for each row, 2,000 received shares took 1.1 s."""
    run(
        database,
        """
        INSERT INTO public.agents (name) SELECT 'more' FROM generate_series(1, 50);
        INSERT INTO public.user_agents (user_id, agent_id)
        SELECT owner.user_id, a.id FROM public.user_agents AS owner, public.agents AS a WHERE a.name = 'more';
        """,
    )
    run(database, f"{GIVE.partition(' VALUES')[0]} SELECT id, %s FROM public.user_agents", users.dan)
    run(database, "ANALYZE public.user_agents, public.user_agent_shares")
    calls = "SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'user_agent_ids_shared_with_me'"
    for relation in ("user_agents_received()", "user_agents_shared_with_me", "user_agents"):
        with psycopg.connect(database) as session:
            session.execute("SET LOCAL track_functions = 'pl'")
            session.execute("SELECT set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": str(users.dan)})])
            session.execute("SET LOCAL ROLE authenticated")
            assert len(session.execute(f"SELECT * FROM public.{relation}".encode()).fetchall()) == 51
            assert session.execute(calls.encode()).fetchall() == [(1,)], relation
