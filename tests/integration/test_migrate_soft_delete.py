"""Users soft-delete agents, restore them and add them again, with SQL and with the functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from tests.integration.database import run
from tests.integration.users import session_as

if TYPE_CHECKING:
    import uuid

AGENTS = 3
REMOVED = "SELECT agent_id FROM public.user_agents WHERE deleted_at IS NOT NULL ORDER BY agent_id"


class Owners(NamedTuple):
    """Two users with the same agents, each used seven times."""

    ann: uuid.UUID
    bob: uuid.UUID
    agents: list[uuid.UUID]


@pytest.fixture
def owners(database: str) -> Owners:
    ann, bob = (run(database, "INSERT INTO auth.users (email) VALUES ('x') RETURNING id")[0][0] for _ in range(2))
    create = "INSERT INTO public.agents (name) SELECT 'a' FROM generate_series(1, %s) RETURNING id"
    agents = sorted(row[0] for row in run(database, create, AGENTS))
    run(
        database,
        "INSERT INTO public.user_agents (user_id, agent_id, usage_count, folder)"
        " SELECT u.id, a.id, 7, 'work' FROM auth.users AS u, public.agents AS a",
    )
    return Owners(ann, bob, agents)


def removed(url: str) -> dict[uuid.UUID, list[uuid.UUID]]:
    """Return the agents of the soft-deleted rows, by user."""
    query = "SELECT user_id, agent_id FROM public.user_agents WHERE deleted_at IS NOT NULL ORDER BY agent_id"
    found: dict[uuid.UUID, list[uuid.UUID]] = {}
    for user_id, agent_id in run(url, query):
        found.setdefault(user_id, []).append(agent_id)
    return found


@pytest.mark.parametrize("returning", ["", " RETURNING deleted_at"])
def test_update_with_where_soft_deletes_that_row(database: str, owners: Owners, returning: str) -> None:
    remove = "UPDATE public.user_agents SET deleted_at = now() WHERE agent_id = %s" + returning
    with session_as(database, "authenticated", owners.ann) as session:
        assert session.execute(remove.encode(), [owners.agents[0]]).rowcount == 1
        # The owner still sees the row and can restore it; the views omit it.
        assert session.execute(REMOVED.encode()).fetchall() == [(owners.agents[0],)]
        shown = session.execute("SELECT agent_id FROM public.user_agents_with_details ORDER BY agent_id").fetchall()
        assert [row[0] for row in shown] == owners.agents[1:]
    assert removed(database) == {owners.ann: owners.agents[:1]}


def test_update_without_where_soft_deletes_only_own_rows(database: str, owners: Owners) -> None:
    with session_as(database, "authenticated", owners.ann) as session:
        assert session.execute("UPDATE public.user_agents SET deleted_at = now()").rowcount == AGENTS
        assert session.execute("SELECT FROM public.user_agents_with_details").rowcount == 0
    assert removed(database) == {owners.ann: owners.agents}
    with session_as(database, "authenticated", owners.ann) as session:
        assert session.execute("UPDATE public.user_agents SET deleted_at = NULL").rowcount == AGENTS
    assert removed(database) == {}


def test_functions_and_sql_undo_soft_deletes_of_each_other(database: str, owners: Owners) -> None:
    state = "SELECT is_active, deleted_at IS NULL, usage_count FROM public.user_agents WHERE agent_id = %s"
    agent = owners.agents[0]
    with session_as(database, "authenticated", owners.ann) as session:
        restore = "SELECT public.restore_user_agent(%s, %s)"
        assert session.execute(restore, [owners.ann, agent]).fetchone() == (False,)
        session.execute("UPDATE public.user_agents SET deleted_at = now() WHERE agent_id = %s", [agent])
        assert session.execute(state.encode(), [agent]).fetchone() == (True, False, 7)
        assert session.execute(restore, [owners.ann, agent]).fetchone() == (True,)
        assert session.execute(state.encode(), [agent]).fetchone() == (True, True, 7)
        remove = "SELECT public.soft_delete_user_agent(%s, %s)"
        assert session.execute(remove, [owners.ann, agent]).fetchone() == (True,)
        assert session.execute(state.encode(), [agent]).fetchone() == (False, False, 7)
        session.execute("UPDATE public.user_agents SET deleted_at = NULL WHERE agent_id = %s", [agent])
        # The update changes only what it names: the row is restored, and the agent stays inactive.
        assert session.execute(state.encode(), [agent]).fetchone() == (False, True, 7)


def test_adding_again_restores_row_with_its_counters(database: str, owners: Owners) -> None:
    agent = owners.agents[0]
    with session_as(database, "authenticated", owners.ann) as session:
        before = session.execute("SELECT id FROM public.user_agents WHERE agent_id = %s", [agent]).fetchone()
        session.execute("SELECT public.soft_delete_user_agent(%s, %s)", [owners.ann, agent])
        insert = "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s)"
        with pytest.raises(psycopg.errors.UniqueViolation):
            session.execute(insert, [owners.ann, agent])
        add = "SELECT id FROM public.add_user_agent(%s, %s, 'template', 'home')"
        assert session.execute(add, [owners.ann, agent]).fetchone() == before
        recreated = session.execute(
            "SELECT id, deleted_at, is_active, usage_count, source, folder FROM public.user_agents WHERE agent_id = %s",
            [agent],
        ).fetchone()
        assert before is not None
        assert recreated == (before[0], None, True, 7, "template", "home")
        # Adding an agent that exists and is inactive leaves it inactive.
        session.execute("UPDATE public.user_agents SET is_active = false WHERE agent_id = %s", [agent])
        assert session.execute(add, [owners.ann, agent]).fetchone() == before
        state = "SELECT is_active FROM public.user_agents WHERE agent_id = %s"
        assert session.execute(state, [agent]).fetchone() == (False,)
    assert removed(database) == {}


def test_soft_deleted_row_is_counted_and_stays_deleted(database: str, owners: Owners) -> None:
    agent = owners.agents[0]
    with session_as(database, "authenticated", owners.ann) as session:
        session.execute("SELECT public.soft_delete_user_agent(%s, %s)", [owners.ann, agent])
        session.execute("SELECT public.track_agent_usage(%s, %s)", [owners.ann, agent])
        count = "SELECT usage_count FROM public.user_agents WHERE agent_id = %s"
        assert session.execute(count, [agent]).fetchone() == (8,)
    assert removed(database) == {owners.ann: [agent]}
