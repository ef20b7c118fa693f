"""Shares: permissions to view, use and edit a row, their expiry, and their effect on the columns of 3.0.0."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.users import FORBIDDEN, Users, session_as
from usage_worker.maintenance.purge import purge
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from uuid import UUID

INVALID = psycopg.errors.IntegrityError
GIVE = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, permission) VALUES (%s, %s, %s)"
GIVE_TEAM = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_team, expires_at) VALUES (%s, %s, %s)"
SHARES = "SELECT shared_with_user, shared_with_team, permission FROM public.user_agent_shares ORDER BY created_at, 1, 2"
COLUMNS = "SELECT is_shared, shared_with, team_id FROM public.user_agents"
ENDED = "UPDATE public.user_agent_shares SET expires_at = now() - interval '1 s' WHERE shared_with_user = %s"


def visible_rows(url: str, user: UUID | None, relation: str = "user_agents") -> int:
    with session_as(url, "authenticated", user) as session:
        row = session.execute(f"SELECT count(*) FROM public.{relation}".encode()).fetchone()
        return int(row[0]) if row else 0


def execute_as(url: str, user: UUID, statement: str, *parameters: object) -> int:
    """Execute a statement as the user and return the number of rows that it affected."""
    with session_as(url, "authenticated", user) as session:
        return session.execute(statement.encode(), parameters).rowcount


def test_share_takes_effect_at_once(database: str, users: Users) -> None:
    assert [visible_rows(database, user) for user in (users.ann, users.bob, users.cid, users.dan)] == [1, 1, 1, 0]
    assert execute_as(database, users.ann, GIVE, users.row, users.dan, "view") == 1
    assert visible_rows(database, users.dan) == 1
    assert visible_rows(database, users.dan, "user_agents_with_details") == 1
    assert (
        execute_as(database, users.ann, "DELETE FROM public.user_agent_shares WHERE shared_with_user = %s", users.dan)
        == 1
    )
    assert visible_rows(database, users.dan) == 0
    run(database, "DELETE FROM public.user_role_assignments")
    assert visible_rows(database, users.cid) == 0
    run(database, "UPDATE public.user_agents SET deleted_at = now()")
    assert [visible_rows(database, user) for user in (users.ann, users.bob)] == [1, 0]


def test_shares_are_visible_to_owner_and_recipients_only(database: str, users: Users) -> None:
    shares = "user_agent_shares"
    assert [visible_rows(database, user, shares) for user in (users.ann, users.bob, users.cid, users.dan, None)] == [
        *(2, 1, 1, 0, 0)
    ]
    with session_as(database, "service_role") as service:
        assert len(service.execute("SELECT FROM public.user_agent_shares").fetchall()) == 2
    with session_as(database, "anon") as anonymous, pytest.raises(FORBIDDEN):
        anonymous.execute("SELECT FROM public.user_agent_shares")


def test_only_owner_can_share(database: str, users: Users) -> None:
    before = run(database, SHARES)
    for user in (users.bob, users.cid, users.dan):
        with pytest.raises(FORBIDDEN):
            execute_as(database, user, GIVE, users.row, user, "edit")
        assert execute_as(database, user, "UPDATE public.user_agent_shares SET permission = 'edit'") == 0
        assert execute_as(database, user, "DELETE FROM public.user_agent_shares") == 0
    # A user with permission to edit cannot share either.
    execute_as(database, users.ann, "UPDATE public.user_agent_shares SET permission = 'edit' WHERE true")
    with pytest.raises(FORBIDDEN):
        execute_as(database, users.bob, GIVE, users.row, users.dan, "view")
    assert [row[:2] for row in run(database, SHARES)] == [row[:2] for row in before]
    for column in ("owner_id", "created_by", "user_agent_id", "shared_with_user", "id"):
        with pytest.raises(FORBIDDEN):
            execute_as(database, users.ann, f"UPDATE public.user_agent_shares SET {column} = %s", users.dan)
    with pytest.raises(FORBIDDEN):
        execute_as(database, users.dan, "INSERT INTO public.user_agent_shares (owner_id) VALUES (%s)", users.dan)
    assert run(database, "SELECT DISTINCT owner_id FROM public.user_agent_shares") == [(users.ann,)]


def test_share_needs_one_recipient(database: str, users: Users) -> None:
    both = (
        "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, shared_with_team) VALUES (%s, %s, %s)"
    )
    for statement, *parameters in (
        (GIVE, users.row, None, "view"),
        (both, users.row, users.dan, users.team),
        (GIVE, users.row, users.dan, "own"),
        (GIVE, users.row, users.bob, "view"),  # exists already
    ):
        with pytest.raises(INVALID):
            execute_as(database, users.ann, statement, *parameters)


@pytest.mark.parametrize("permission", ["view", "use"])
def test_share_without_edit_permission_changes_nothing(database: str, users: Users, permission: str) -> None:
    execute_as(database, users.ann, "UPDATE public.user_agent_shares SET permission = %s", permission)
    for user in (users.bob, users.cid):
        assert visible_rows(database, user) == 1
        assert execute_as(database, user, "UPDATE public.user_agents SET notes = 'mine'") == 0
        assert execute_as(database, user, "DELETE FROM public.user_agents") == 0


def test_use_of_shared_agent_counts_for_acting_user(database: str, users: Users) -> None:
    execute_as(database, users.ann, "UPDATE public.user_agent_shares SET permission = 'use'")
    track = "SELECT public.track_agent_usage(%s, %s)"
    with pytest.raises(FORBIDDEN):
        execute_as(database, users.bob, track, users.ann, users.agent)
    execute_as(database, users.bob, track, users.bob, users.agent)
    counted = "SELECT user_id, usage_count FROM public.user_agents ORDER BY usage_count"
    assert run(database, counted) == [(users.ann, 0), (users.bob, 1)]


def test_editor_changes_row_but_not_its_owner(database: str, users: Users) -> None:
    execute_as(database, users.ann, "UPDATE public.user_agent_shares SET permission = 'edit'")
    for user in (users.bob, users.cid):
        assert execute_as(database, user, "UPDATE public.user_agents SET folder = 'ours', is_shared = is_shared") == 1
        for change in (
            f"user_id = '{user}'",
            "user_id = gen_random_uuid()",
            "agent_id = gen_random_uuid()",
            "id = gen_random_uuid()",
            "deleted_at = now()",
            "is_shared = false",
            "shared_with = shared_with || gen_random_uuid()",
            "team_id = NULL",
            "share_settings = '{\"public\": true}'",
        ):
            with pytest.raises((FORBIDDEN, psycopg.IntegrityError)):
                execute_as(database, user, f"UPDATE public.user_agents SET {change}")
        assert execute_as(database, user, "DELETE FROM public.user_agents") == 0
    assert run(database, "SELECT user_id, folder FROM public.user_agents") == [(users.ann, "ours")]
    recorded = "SELECT actor, user_id FROM public.user_agent_history WHERE action = 'update'"
    assert run(database, recorded) == [(users.bob, users.ann)]


def test_share_stops_at_expiry_and_resumes_when_extended(database: str, users: Users) -> None:
    execute_as(database, users.ann, "UPDATE public.user_agent_shares SET permission = 'edit'")
    later = "UPDATE public.user_agent_shares SET expires_at = now() + %s::interval WHERE shared_with_user = %s"
    execute_as(database, users.ann, later, "1 hour", users.bob)
    edit = "UPDATE public.user_agents SET sort_order = sort_order + 1"
    assert execute_as(database, users.bob, edit) == 1
    execute_as(database, users.ann, later, "400 ms", users.bob)
    eventually(lambda: visible_rows(database, users.bob) == 0)
    assert execute_as(database, users.bob, edit) == 0
    assert visible_rows(database, users.cid) == 1
    execute_as(database, users.ann, "UPDATE public.user_agent_shares SET expires_at = '2999-01-01'")
    assert execute_as(database, users.bob, edit) == 1


def test_purge_deletes_expired_shares(database: str, users: Users) -> None:
    """Old readers ignore expiry, so purge removes expired shares from the columns; other shares stay."""
    soon = "UPDATE public.user_agent_shares SET expires_at = now() + interval '300 ms' WHERE shared_with_user = %s"
    run(database, soon, users.bob)
    eventually(lambda: run(database, "SELECT id FROM public.user_agent_shares WHERE expires_at <= now()") != [])
    assert run(database, COLUMNS) == [(True, [users.bob], users.team)]
    with Store(database) as store, psycopg.connect(database) as holder:
        holder.execute("SELECT FROM public.user_agents FOR UPDATE")
        assert purge(store, timedelta(days=30)).expired_shares == 0
        holder.rollback()
        assert purge(store, timedelta(days=30)).expired_shares == 1
    assert run(database, "SELECT shared_with_team FROM public.user_agent_shares") == [(users.team,)]
    assert run(database, COLUMNS) == [(True, None, users.team)]
    recorded = "SELECT changes -> 'shared_with_user' ->> 'old' FROM public.user_agent_history WHERE action = 'unshare'"
    assert run(database, recorded) == [(str(users.bob),)]


def test_shares_are_deleted_with_row_and_recorded_once(database: str, users: Users) -> None:
    run(database, "DELETE FROM auth.users WHERE id = %s", users.ann)
    assert run(database, "SELECT FROM public.user_agent_shares") == []
    assert run(database, "SELECT action FROM public.user_agent_history ORDER BY id") == [
        ("share",),
        ("share",),
        ("delete",),
    ]


def test_sharing_is_recorded_in_audit_trail(database: str, users: Users) -> None:
    run(database, "TRUNCATE public.user_agent_history")
    execute_as(database, users.ann, GIVE, users.row, users.dan, "view")
    change = "UPDATE public.user_agent_shares SET permission = 'edit', expires_at = '2027-01-01 00:00+00'"
    execute_as(database, users.ann, f"{change} WHERE shared_with_user = %s", users.dan)
    execute_as(database, users.ann, "UPDATE public.user_agent_shares SET permission = permission")
    with session_as(database, "service_role") as service:
        service.execute("DELETE FROM public.user_agent_shares WHERE shared_with_user = %s", [users.dan])
    dan, at = str(users.dan), "2027-01-01T00:00:00+00:00"
    assert run(database, "SELECT action, changes, actor, actor_role FROM public.user_agent_history ORDER BY id") == [
        (
            "share",
            {"shared_with_user": {"old": None, "new": dan}, "permission": {"old": None, "new": "view"}},
            users.ann,
            "authenticated",
        ),
        (
            "share",
            {
                "shared_with_user": {"old": dan, "new": dan},
                "permission": {"old": "view", "new": "edit"},
                "expires_at": {"old": None, "new": at},
            },
            users.ann,
            "authenticated",
        ),
        (
            "unshare",
            {
                "shared_with_user": {"old": dan, "new": None},
                "permission": {"old": "edit", "new": None},
                "expires_at": {"old": at, "new": None},
            },
            None,
            "service_role",
        ),
    ]


def test_writes_to_old_columns_change_shares(database: str, users: Users) -> None:
    def write(assignments: str, *parameters: object) -> set[tuple[Any, ...]]:
        execute_as(database, users.ann, f"UPDATE public.user_agents SET {assignments}", *parameters)
        return set(run(database, SHARES))

    bob, dan = (users.bob, None, "view"), (users.dan, None, "view")
    team, other = (None, users.team, "view"), uuid.uuid4()
    assert set(run(database, SHARES)) == {bob, team}
    assert write("shared_with = %s", [users.dan, users.bob, users.dan, None]) == {bob, dan, team}
    execute_as(
        database,
        users.ann,
        "UPDATE public.user_agent_shares SET permission = 'edit' WHERE shared_with_user = %s",
        users.dan,
    )
    editor = (users.dan, None, "edit")
    assert write("shared_with = array_remove(shared_with, %s)", users.bob) == {editor, team}
    assert write("team_id = %s", other) == {editor, (None, other, "view")}
    assert write("is_shared = false") == set()
    assert visible_rows(database, users.dan) == 0
    assert write("shared_with = %s", [users.bob]) == set()
    # In two steps, as a form may do it; the columns keep the written values.
    assert write("shared_with = NULL, team_id = NULL, is_shared = true") == set()
    assert run(database, COLUMNS) == [(True, None, None)]
    assert write("shared_with = %s", [users.bob]) == {bob}
    assert write("shared_with = '{}'") == set()
    assert run(database, COLUMNS) == [(True, [], None)]
    assert write("shared_with = %s", [users.dan]) == {dan}


def test_write_to_old_columns_renews_expired_share(database: str, users: Users) -> None:
    execute_as(database, users.ann, ENDED, users.bob)
    assert run(database, COLUMNS) == [(True, None, users.team)]
    execute_as(database, users.ann, "UPDATE public.user_agents SET shared_with = %s", [users.bob])
    assert visible_rows(database, users.bob) == 1


def test_old_columns_show_new_shares(database: str, users: Users) -> None:
    other = uuid.uuid4()
    later = run(database, "SELECT now() + interval '1 h'")[0][0]
    execute_as(database, users.ann, GIVE, users.row, users.dan, "use")
    assert run(database, COLUMNS) == [(True, [users.bob, users.dan], users.team)]
    execute_as(database, users.ann, GIVE_TEAM, users.row, other, later)
    assert run(database, COLUMNS) == [(True, [users.bob, users.dan], users.team)]
    execute_as(database, users.ann, "DELETE FROM public.user_agent_shares WHERE shared_with_team = %s", users.team)
    assert run(database, COLUMNS) == [(True, [users.bob, users.dan], other)]
    # Expiry itself does not change the columns; deleting the share does.
    run(database, "ALTER TABLE public.user_agent_shares DISABLE TRIGGER USER")
    run(database, ENDED, users.dan)
    run(database, "ALTER TABLE public.user_agent_shares ENABLE TRIGGER USER")
    assert run(database, COLUMNS) == [(True, [users.bob, users.dan], other)]
    assert visible_rows(database, users.dan) == 0
    with session_as(database, "service_role") as service:
        service.execute("DELETE FROM public.user_agent_shares WHERE expires_at <= now()")
    assert run(database, COLUMNS) == [(True, [users.bob], other)]
    execute_as(database, users.ann, "DELETE FROM public.user_agent_shares")
    assert run(database, COLUMNS) == [(False, None, None)]


def test_new_share_does_not_renew_ended_shares_of_old_columns(database: str, users: Users) -> None:
    execute_as(database, users.ann, "UPDATE public.user_agents SET is_shared = false")
    execute_as(database, users.ann, GIVE, users.row, users.dan, "view")
    assert run(database, COLUMNS) == [(True, [users.dan], None)]
    assert [visible_rows(database, user) for user in (users.bob, users.cid, users.dan)] == [0, 0, 1]


def test_row_is_updated_once_by_many_shares(database: str, users: Users) -> None:
    """An update for each share made 2,000 of them take 24.5 s."""
    give = (
        "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user)"
        " SELECT id, gen_random_uuid() FROM public.user_agents, generate_series(1, 50)"
    )
    updates = "SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'user_agents'"
    with psycopg.connect(database) as owner:
        for number, (statement, shared) in enumerate(
            [
                (give, 51),
                ("UPDATE public.user_agent_shares SET permission = 'use'", 51),
                ("UPDATE public.user_agent_shares SET expires_at = now()", None),
                ("UPDATE public.user_agent_shares SET expires_at = NULL", 51),
                ("DELETE FROM public.user_agent_shares", None),
            ]
        ):
            owner.execute(statement.encode())
            assert owner.execute(updates.encode()).fetchone() == ((1, 1, 2, 3, 4)[number],)
            length = owner.execute("SELECT cardinality(shared_with) FROM public.user_agents").fetchone()
            assert length == (shared,)
        actions = "SELECT action, count(*) FROM public.user_agent_history GROUP BY 1 ORDER BY 1"
        # Two shares of the sample, which have been updated three times and deleted, as the others.
        assert owner.execute(actions.encode()).fetchall() == [("share", 2 + 50 + 3 * 52), ("unshare", 52)]


def test_concurrent_bulk_shares_do_not_deadlock(database: str, users: Users) -> None:
    run(database, "INSERT INTO public.agents (name) SELECT 'more' FROM generate_series(1, 100)")
    more = "INSERT INTO public.user_agents (user_id, agent_id) SELECT %s, id FROM public.agents WHERE name = 'more'"
    run(database, more, users.ann)
    rounds = 6

    def share(order: str) -> None:
        give = (
            "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user)"
            f" SELECT id, %s FROM public.user_agents ORDER BY id {order}"
        )
        for _ in range(rounds):
            assert execute_as(database, users.ann, give, uuid.uuid4()) == 101

    with ThreadPoolExecutor(2) as pool:
        for sharing in [pool.submit(share, order) for order in ("ASC", "DESC")]:
            sharing.result()
    lengths = "SELECT cardinality(shared_with), count(*) FROM public.user_agents GROUP BY 1 ORDER BY 1"
    assert run(database, lengths) == [(2 * rounds, 100), (2 * rounds + 1, 1)]


def test_share_of_row_deleted_meanwhile_fails(database: str, users: Users) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(database) as deleting:
        deleting.execute("DELETE FROM public.user_agents")
        sharing = pool.submit(execute_as, database, users.ann, GIVE, users.row, users.dan, "view")
        eventually(lambda: run(database, waiting))
        deleting.commit()
        with pytest.raises(FORBIDDEN):
            sharing.result()
    assert run(database, SHARES) == []


def test_row_inserted_as_shared_is_shared(database: str, users: Users) -> None:
    run(database, "DELETE FROM public.user_agents")
    insert = "INSERT INTO public.user_agents (user_id, agent_id, is_shared, shared_with) VALUES (%s, %s, %s, %s)"
    execute_as(database, users.ann, insert, users.ann, users.agent, True, [users.bob])
    execute_as(database, users.dan, insert, users.dan, users.agent, False, [users.bob])
    assert run(database, SHARES) == [(users.bob, None, "view")]
    assert run(database, "SELECT created_by FROM public.user_agent_shares") == [(users.ann,)]


def test_shared_rows_are_found_by_index(database: str, users: Users) -> None:
    run(
        database,
        """
        INSERT INTO auth.users (email) SELECT 'many' FROM generate_series(1, 5000);
        INSERT INTO public.user_agents (user_id, agent_id, is_shared, shared_with)
        SELECT u.id, a.id, true, ARRAY[gen_random_uuid()] FROM auth.users u, public.agents a WHERE email = 'many';
        ANALYZE public.user_agents, public.user_agent_shares
        """,
    )
    for query in ("SELECT * FROM public.user_agents", "SELECT * FROM public.user_recent_agents"):
        with session_as(database, "authenticated", users.bob) as session:
            plan = "\n".join(row[0] for row in session.execute(f"EXPLAIN (ANALYZE) {query}".encode()))
        assert "Seq Scan on user_agents" not in plan, plan
    with session_as(database, "authenticated", users.bob) as session:
        edit = "EXPLAIN UPDATE public.user_agents SET folder = 'x' WHERE id = %s"
        plan = "\n".join(row[0] for row in session.execute(edit, [users.row]))
    assert "Seq Scan on user_agent" not in plan, plan


# What a user can do to look like one of the triggers that keep shares and columns in step.
PRETENCES = {
    "a setting": "SET usage_worker.sharing = 'on'",
    "a trigger": """
        CREATE TEMPORARY TABLE fired (statement text);
        CREATE FUNCTION pg_temp.fire() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN EXECUTE NEW.statement; RETURN NULL; END';
        CREATE TRIGGER fire AFTER INSERT ON fired FOR EACH ROW EXECUTE FUNCTION pg_temp.fire()
    """,
}


@pytest.mark.parametrize("pretence", PRETENCES)
def test_user_cannot_keep_shares_and_columns_from_following(database: str, users: Users, pretence: str) -> None:
    with session_as(database, "authenticated", users.ann) as session:
        session.execute(PRETENCES[pretence].encode())

        def write(statement: str) -> tuple[set[UUID], set[UUID]]:
            if pretence == "a trigger":
                session.execute("INSERT INTO fired VALUES (%s)", [statement])
            else:
                session.execute(statement.encode())
            ((columns,),) = run(database, "SELECT coalesce(shared_with, '{}') FROM public.user_agents")
            return {share[0] for share in run(database, SHARES) if share[0]}, set(columns)

        bob, dan = {users.bob}, {users.dan}
        assert write(f"UPDATE public.user_agents SET shared_with = '{{{users.dan}}}'") == (dan, dan)
        give = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user)"
        assert write(f"{give} VALUES ('{users.row}', '{users.bob}')") == (bob | dan, bob | dan)
        assert write(f"DELETE FROM public.user_agent_shares WHERE shared_with_user = '{users.dan}'") == (bob, bob)
        assert write("UPDATE public.user_agents SET is_shared = false, shared_with = NULL") == (set(), set())


def test_team_of_old_columns_is_replaced_by_one_that_has_a_share(database: str, users: Users) -> None:
    other = uuid.uuid4()
    execute_as(database, users.ann, GIVE_TEAM, users.row, other, None)
    execute_as(database, users.ann, "UPDATE public.user_agents SET team_id = %s", other)
    teams = "SELECT shared_with_team FROM public.user_agent_shares WHERE shared_with_team IS NOT NULL"
    assert run(database, teams) == [(other,)]
    assert run(database, COLUMNS) == [(True, [users.bob], other)]


def test_team_that_old_columns_could_not_hold_follows_the_one_that_leaves(database: str, users: Users) -> None:
    other = uuid.uuid4()
    execute_as(database, users.ann, GIVE_TEAM, users.row, other, None)
    execute_as(database, users.ann, "UPDATE public.user_agents SET team_id = NULL")
    assert run(database, COLUMNS) == [(True, [users.bob], other)]
