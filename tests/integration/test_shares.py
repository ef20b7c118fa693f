"""Shares: who sees, uses and edits whose row, until when; how the columns of 3.0.0 and the shares follow each other."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.users import FORBIDDEN, People, acting
from usage_worker.maintenance import purge
from usage_worker.store import Store

if TYPE_CHECKING:
    from uuid import UUID

INVALID = psycopg.errors.IntegrityError
GIVE = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, permission) VALUES (%s, %s, %s)"
GIVE_TEAM = "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_team, expires_at) VALUES (%s, %s, %s)"
SHARES = "SELECT shared_with_user, shared_with_team, permission FROM public.user_agent_shares ORDER BY created_at, 1, 2"
COLUMNS = "SELECT is_shared, shared_with, team_id FROM public.user_agents"
ENDED = "UPDATE public.user_agent_shares SET expires_at = now() - interval '1 s' WHERE shared_with_user = %s"


def sees(url: str, user: UUID | None, relation: str = "user_agents") -> int:
    with acting(url, "authenticated", user) as session:
        row = session.execute(f"SELECT count(*) FROM public.{relation}".encode()).fetchone()
        return int(row[0]) if row else 0


def do(url: str, user: UUID, statement: str, *parameters: object) -> int:
    """How many rows the statement of this user changed."""
    with acting(url, "authenticated", user) as session:
        return session.execute(statement.encode(), parameters).rowcount


def test_the_owner_shares_and_the_receiver_sees_at_once(database: str, people: People) -> None:
    assert [sees(database, user) for user in (people.ann, people.bob, people.cid, people.dan)] == [1, 1, 1, 0]
    assert do(database, people.ann, GIVE, people.row, people.dan, "view") == 1
    assert sees(database, people.dan) == 1
    assert sees(database, people.dan, "user_agents_with_details") == 1
    assert do(database, people.ann, "DELETE FROM public.user_agent_shares WHERE shared_with_user = %s", people.dan) == 1
    assert sees(database, people.dan) == 0
    run(database, "DELETE FROM public.user_role_assignments")
    assert sees(database, people.cid) == 0
    run(database, "UPDATE public.user_agents SET deleted_at = now()")
    assert [sees(database, user) for user in (people.ann, people.bob)] == [1, 0]


def test_each_side_sees_the_shares_that_concern_it(database: str, people: People) -> None:
    shares = "user_agent_shares"
    assert [sees(database, user, shares) for user in (people.ann, people.bob, people.cid, people.dan, None)] == [
        *(2, 1, 1, 0, 0)
    ]
    with acting(database, "service_role") as service:
        assert len(service.execute("SELECT FROM public.user_agent_shares").fetchall()) == 2
    with acting(database, "anon") as outsider, pytest.raises(FORBIDDEN):
        outsider.execute("SELECT FROM public.user_agent_shares")


def test_only_the_owner_shares(database: str, people: People) -> None:
    before = run(database, SHARES)
    for user in (people.bob, people.cid, people.dan):
        with pytest.raises(FORBIDDEN):
            do(database, user, GIVE, people.row, user, "edit")
        assert do(database, user, "UPDATE public.user_agent_shares SET permission = 'edit'") == 0
        assert do(database, user, "DELETE FROM public.user_agent_shares") == 0
    # Not even who may edit the row.
    do(database, people.ann, "UPDATE public.user_agent_shares SET permission = 'edit' WHERE true")
    with pytest.raises(FORBIDDEN):
        do(database, people.bob, GIVE, people.row, people.dan, "view")
    assert [row[:2] for row in run(database, SHARES)] == [row[:2] for row in before]
    for column in ("owner_id", "created_by", "user_agent_id", "shared_with_user", "id"):
        with pytest.raises(FORBIDDEN):
            do(database, people.ann, f"UPDATE public.user_agent_shares SET {column} = %s", people.dan)
    with pytest.raises(FORBIDDEN):
        do(database, people.dan, "INSERT INTO public.user_agent_shares (owner_id) VALUES (%s)", people.dan)
    assert run(database, "SELECT DISTINCT owner_id FROM public.user_agent_shares") == [(people.ann,)]


def test_a_share_has_one_target_and_a_row(database: str, people: People) -> None:
    both = (
        "INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, shared_with_team) VALUES (%s, %s, %s)"
    )
    for statement, *parameters in (
        (GIVE, people.row, None, "view"),
        (both, people.row, people.dan, people.team),
        (GIVE, people.row, people.dan, "own"),
        (GIVE, people.row, people.bob, "view"),  # again
        (GIVE, uuid.uuid4(), people.dan, "view"),
    ):
        with pytest.raises(INVALID):
            do(database, people.ann, statement, *parameters)


@pytest.mark.parametrize("permission", ["view", "use"])
def test_who_may_not_edit_changes_nothing(database: str, people: People, permission: str) -> None:
    do(database, people.ann, "UPDATE public.user_agent_shares SET permission = %s", permission)
    for user in (people.bob, people.cid):
        assert sees(database, user) == 1
        assert do(database, user, "UPDATE public.user_agents SET notes = 'mine'") == 0
        assert do(database, user, "DELETE FROM public.user_agents") == 0


def test_who_uses_counts_for_himself(database: str, people: People) -> None:
    do(database, people.ann, "UPDATE public.user_agent_shares SET permission = 'use'")
    track = "SELECT public.track_agent_usage(%s, %s)"
    with pytest.raises(FORBIDDEN):
        do(database, people.bob, track, people.ann, people.agent)
    do(database, people.bob, track, people.bob, people.agent)
    counted = "SELECT user_id, usage_count FROM public.user_agents ORDER BY usage_count"
    assert run(database, counted) == [(people.ann, 0), (people.bob, 1)]


def test_who_may_edit_changes_the_row_and_not_whose_it_is(database: str, people: People) -> None:
    do(database, people.ann, "UPDATE public.user_agent_shares SET permission = 'edit'")
    for user in (people.bob, people.cid):
        assert do(database, user, "UPDATE public.user_agents SET notes = 'ours', is_shared = is_shared") == 1
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
                do(database, user, f"UPDATE public.user_agents SET {change}")
        assert do(database, user, "DELETE FROM public.user_agents") == 0
    assert run(database, "SELECT user_id, notes FROM public.user_agents") == [(people.ann, "ours")]
    told = "SELECT actor, user_id FROM public.user_agent_history WHERE action = 'update'"
    assert run(database, told) == [(people.bob, people.ann)]


def test_an_expired_share_stops_at_once_and_comes_back_when_prolonged(database: str, people: People) -> None:
    do(database, people.ann, "UPDATE public.user_agent_shares SET permission = 'edit'")
    later = "UPDATE public.user_agent_shares SET expires_at = now() + interval '400 ms' WHERE shared_with_user = %s"
    do(database, people.ann, later, people.bob)
    edit = "UPDATE public.user_agents SET sort_order = sort_order + 1"
    assert do(database, people.bob, edit) == 1
    eventually(lambda: sees(database, people.bob) == 0)
    assert do(database, people.bob, edit) == 0
    assert sees(database, people.cid) == 1
    do(database, people.ann, "UPDATE public.user_agent_shares SET expires_at = 'infinity'")
    assert do(database, people.bob, edit) == 1


def test_what_has_expired_is_cleaned_up(database: str, people: People) -> None:
    """Old readers, who know no end of a share, stop seeing it; what goes on stays."""
    soon = "UPDATE public.user_agent_shares SET expires_at = now() + interval '300 ms' WHERE shared_with_user = %s"
    run(database, soon, people.bob)
    eventually(lambda: run(database, "SELECT id FROM public.user_agent_shares WHERE expires_at <= now()") != [])
    assert run(database, COLUMNS) == [(True, [people.bob], people.team)]
    with Store(database) as store, psycopg.connect(database) as holder:
        holder.execute("SELECT FROM public.user_agents FOR UPDATE")
        assert purge(store, timedelta(days=30)).expired_shares == 0
        holder.rollback()
        assert purge(store, timedelta(days=30)).expired_shares == 1
    assert run(database, "SELECT shared_with_team FROM public.user_agent_shares") == [(people.team,)]
    assert run(database, COLUMNS) == [(True, None, people.team)]
    told = "SELECT changes -> 'shared_with_user' ->> 'old' FROM public.user_agent_history WHERE action = 'unshare'"
    assert run(database, told) == [(str(people.bob),)]


def test_shares_go_with_their_row_and_the_trail_tells_it_once(database: str, people: People) -> None:
    run(database, "DELETE FROM auth.users WHERE id = %s", people.ann)
    assert run(database, "SELECT FROM public.user_agent_shares") == []
    assert run(database, "SELECT action FROM public.user_agent_history ORDER BY id") == [
        ("share",),
        ("share",),
        ("delete",),
    ]


def test_sharing_is_told(database: str, people: People) -> None:
    run(database, "TRUNCATE public.user_agent_history")
    do(database, people.ann, GIVE, people.row, people.dan, "view")
    change = "UPDATE public.user_agent_shares SET permission = 'edit', expires_at = '2027-01-01 00:00+00'"
    do(database, people.ann, f"{change} WHERE shared_with_user = %s", people.dan)
    do(database, people.ann, "UPDATE public.user_agent_shares SET permission = permission")
    with acting(database, "service_role") as service:
        service.execute("DELETE FROM public.user_agent_shares WHERE shared_with_user = %s", [people.dan])
    dan, at = str(people.dan), "2027-01-01T00:00:00+00:00"
    assert run(database, "SELECT action, changes, actor, actor_role FROM public.user_agent_history ORDER BY id") == [
        (
            "share",
            {"shared_with_user": {"old": None, "new": dan}, "permission": {"old": None, "new": "view"}},
            people.ann,
            "authenticated",
        ),
        (
            "share",
            {
                "shared_with_user": {"old": dan, "new": dan},
                "permission": {"old": "view", "new": "edit"},
                "expires_at": {"old": None, "new": at},
            },
            people.ann,
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


def test_an_old_writer_shares_by_the_columns(database: str, people: People) -> None:
    def write(assignments: str, *parameters: object) -> set[tuple[Any, ...]]:
        do(database, people.ann, f"UPDATE public.user_agents SET {assignments}", *parameters)
        return set(run(database, SHARES))

    bob, dan = (people.bob, None, "view"), (people.dan, None, "view")
    team, other = (None, people.team, "view"), uuid.uuid4()
    assert set(run(database, SHARES)) == {bob, team}
    assert write("shared_with = %s", [people.dan, people.bob, people.dan, None]) == {bob, dan, team}
    do(
        database,
        people.ann,
        "UPDATE public.user_agent_shares SET permission = 'edit' WHERE shared_with_user = %s",
        people.dan,
    )
    editor = (people.dan, None, "edit")
    assert write("shared_with = array_remove(shared_with, %s)", people.bob) == {editor, team}
    assert write("team_id = %s", other) == {editor, (None, other, "view")}
    assert write("is_shared = false") == set()
    assert sees(database, people.dan) == 0
    assert write("shared_with = %s", [people.bob]) == set()
    # In two steps, as a form may do it; the columns stay as they were written.
    assert write("shared_with = NULL, team_id = NULL, is_shared = true") == set()
    assert run(database, COLUMNS) == [(True, None, None)]
    assert write("shared_with = %s", [people.bob]) == {bob}
    assert write("shared_with = '{}'") == set()
    assert run(database, COLUMNS) == [(True, [], None)]
    assert write("shared_with = %s", [people.dan]) == {dan}


def test_an_old_writer_renews_what_expired(database: str, people: People) -> None:
    do(database, people.ann, ENDED, people.bob)
    assert run(database, COLUMNS) == [(True, None, people.team)]
    do(database, people.ann, "UPDATE public.user_agents SET shared_with = %s", [people.bob])
    assert sees(database, people.bob) == 1


def test_old_readers_see_new_shares_in_the_columns(database: str, people: People) -> None:
    other = uuid.uuid4()
    later = run(database, "SELECT now() + interval '1 h'")[0][0]
    do(database, people.ann, GIVE, people.row, people.dan, "use")
    assert run(database, COLUMNS) == [(True, [people.bob, people.dan], people.team)]
    do(database, people.ann, GIVE_TEAM, people.row, other, later)
    assert run(database, COLUMNS) == [(True, [people.bob, people.dan], people.team)]
    do(database, people.ann, "DELETE FROM public.user_agent_shares WHERE shared_with_team = %s", people.team)
    assert run(database, COLUMNS) == [(True, [people.bob, people.dan], other)]
    # Expiry itself changes nothing; cleaning up does.
    run(database, "ALTER TABLE public.user_agent_shares DISABLE TRIGGER USER")
    run(database, ENDED, people.dan)
    run(database, "ALTER TABLE public.user_agent_shares ENABLE TRIGGER USER")
    assert run(database, COLUMNS) == [(True, [people.bob, people.dan], other)]
    assert sees(database, people.dan) == 0
    with acting(database, "service_role") as service:
        service.execute("DELETE FROM public.user_agent_shares WHERE expires_at <= now()")
    assert run(database, COLUMNS) == [(True, [people.bob], other)]
    do(database, people.ann, "DELETE FROM public.user_agent_shares")
    assert run(database, COLUMNS) == [(False, None, None)]


def test_a_new_share_does_not_wake_what_the_columns_still_name(database: str, people: People) -> None:
    do(database, people.ann, "UPDATE public.user_agents SET is_shared = false")
    do(database, people.ann, GIVE, people.row, people.dan, "view")
    assert run(database, COLUMNS) == [(True, [people.dan], None)]
    assert [sees(database, user) for user in (people.bob, people.cid, people.dan)] == [0, 0, 1]


def test_a_row_that_comes_shared_is_shared(database: str, people: People) -> None:
    run(database, "DELETE FROM public.user_agents")
    insert = "INSERT INTO public.user_agents (user_id, agent_id, is_shared, shared_with) VALUES (%s, %s, %s, %s)"
    do(database, people.ann, insert, people.ann, people.agent, True, [people.bob])
    do(database, people.dan, insert, people.dan, people.agent, False, [people.bob])
    assert run(database, SHARES) == [(people.bob, None, "view")]
    assert run(database, "SELECT created_by FROM public.user_agent_shares") == [(people.ann,)]


def test_a_user_finds_his_rows_by_index(database: str, people: People) -> None:
    run(
        database,
        """
        INSERT INTO auth.users (email) SELECT 'many' FROM generate_series(1, 20000);
        INSERT INTO public.user_agents (user_id, agent_id, is_shared, shared_with)
        SELECT u.id, a.id, true, ARRAY[gen_random_uuid()] FROM auth.users u, public.agents a WHERE email = 'many';
        ANALYZE public.user_agents, public.user_agent_shares
        """,
    )
    for query in ("SELECT * FROM public.user_agents", "SELECT * FROM public.user_recent_agents"):
        with acting(database, "authenticated", people.bob) as session:
            plan = "\n".join(row[0] for row in session.execute(f"EXPLAIN (ANALYZE) {query}".encode()))
        assert "Seq Scan on user_agents" not in plan, plan
    with acting(database, "authenticated", people.bob) as session:
        edit = "EXPLAIN UPDATE public.user_agents SET notes = 'x' WHERE id = %s"
        plan = "\n".join(row[0] for row in session.execute(edit, [people.row]))
    assert "Seq Scan on user_agent" not in plan, plan
