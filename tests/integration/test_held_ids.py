"""Ids of an application's own, and agents, that an open transaction of the application has inserted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers import eventually
from tests.integration.database import run, with_option
from tests.integration.test_any_id import KEPT, expected, flush, track
from tests.integration.test_held_rows import WAITING, holding
from usage_worker.errors import LockHeldError
from usage_worker.events.external_ids import uuid_of
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

USER, BOT = uuid_of("user", "42"), uuid_of("agent", "bot")
INSERT_ID = "INSERT INTO public.usage_external_ids (kind, id, external_id) VALUES (%s, %s, %s)"
INSERT_AGENT = "INSERT INTO public.agents (id, name) VALUES (%s, 'new')"
SOON = "lock_timeout=300ms"


@pytest.fixture
def known(harness: IngestHarness, make_resources: Callable[..., Resources], database: str, ingest_url: str) -> None:
    """Create the user and the agent, and a worker that waits for locks only briefly."""
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", USER)
    run(database, INSERT_AGENT, BOT)
    harness.worker = make_resources(DATABASE_URL=with_option(ingest_url, SOON))


@pytest.mark.usefixtures("known")
def test_ids_that_an_application_inserts_stop_no_event(harness: IngestHarness, database: str) -> None:
    """They are left out, the other ids of the batch are kept, and the next batch that names them keeps them."""
    own = "('user', %s, '42'), ('agent', %s, 'bot')"
    with holding(harness, f"INSERT INTO public.usage_external_ids (kind, id, external_id) VALUES {own}", USER, BOT):
        for talk in ("first", "second"):
            track(harness, "42", "bot", conversation_id=talk)
            track(harness, harness.users[0], "bot", conversation_id=f"other {talk}")
            assert harness.flush() == Intake(2, 2, 0, 0)
    talks = {expected(conversation=f"{other}{talk}")[0] for other in ("", "other ") for talk in ("first", "second")}
    assert set(run(database, KEPT)) == talks
    track(harness, "42", "bot")
    assert harness.flush() == Intake(1, 1, 0, 0)
    assert set(run(database, KEPT)) == talks | set(expected(user="42", agent="bot"))


@pytest.mark.usefixtures("known")
def test_locked_table_loses_no_id(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """Nobody else writes the ids of these events: they wait, as where another table is locked."""
    track(harness, "42", "bot", conversation_id="talk")
    with holding(harness, "LOCK TABLE public.usage_external_ids IN SHARE MODE"), pytest.raises(LockHeldError):
        harness.flush()
    harness.worker = make_resources(reclaim_idle=0)
    assert harness.flush() == Intake(1, 1, 0, 0)
    assert set(run(database, KEPT)) == set(expected(user="42", agent="bot", conversation="talk"))


def test_agent_that_is_inserted_again_keeps_its_name(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """The process has created it before, and the application has deleted it with its id since."""
    creator = make_resources(DATABASE_URL=with_option(database, SOON), unknown="create", reclaim_idle=0.1)
    track(harness, harness.users[0], "bot")
    assert flush(creator) == Intake(1, 1, 0, 0)
    for table, column in (("user_agents", "agent_id"), ("agents", "id"), ("usage_external_ids", "id")):
        run(database, f"DELETE FROM public.{table} WHERE {column} = %s", BOT)
    with holding(harness, INSERT_ID, "agent", BOT, "bot") as holder:
        track(harness, harness.users[1], "bot")
        assert flush(creator) == Intake()
        holder.commit()
    eventually(lambda: flush(creator) and creator.store.intake_totals() == Intake(2, 2, 0, 0), 30)
    assert run(database, "SELECT name FROM public.agents WHERE id = %s", BOT) == [("bot",)]


def test_new_agents_wait_for_their_ids_and_rows(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """An agent's name is its id: it would have its UUID as its name for ever. Other new agents do not wait."""
    creator = make_resources(DATABASE_URL=with_option(database, SOON), unknown="create", reclaim_idle=0.1)
    agents = ("bot", "helper", "other")
    with holding(harness, INSERT_ID, "agent", BOT, "bot") as holder:
        holder.execute(INSERT_AGENT.encode(), [uuid_of("agent", "helper")])
        for user in harness.users[:3]:
            for agent in agents:
                track(harness, user, agent)
        assert flush(creator) == Intake(3, 3, 0, 0)
        assert run(database, WAITING) == [(6,)]
        for agent in agents:
            track(harness, harness.users[0], agent)
        assert flush(creator).applied == 1
    eventually(lambda: flush(creator) and creator.store.intake_totals() == Intake(12, 12, 0, 0), 30)
    names = "SELECT id, name FROM public.agents WHERE name = ANY (%s) ORDER BY name"
    assert run(database, names, list(agents)) == [(uuid_of("agent", agent), agent) for agent in agents]
    assert run(database, WAITING) == [(0,)]
