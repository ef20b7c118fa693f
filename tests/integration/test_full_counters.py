"""A pair of which a counter is full is refused as a pair; its neighbours are counted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.helpers import eventually
from tests.integration.database import run
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.conftest import IngestHarness

FULL = {
    "usage_count": 2_147_483_647,
    "error_count": 9_223_372_036_854_775_807,
    "total_cost_usd": 9_999_999_999,
}


def event(user: UUID, agent: UUID, **fields: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "event_id": uuid4(),
        "occurred_at": now,
        "user_id": user,
        "agent_id": agent,
        "tokens": 5,
        "cost_usd": 1,
        "response_time_ms": 100,
        **fields,
    }


@pytest.mark.parametrize("column", FULL)
def test_full_pair_is_refused_and_neighbours_are_counted(harness: IngestHarness, database: str, column: str) -> None:
    name = conninfo_to_dict(database)["dbname"]
    run(database, f"ALTER DATABASE {name} SET track_functions = 'all'")
    harness.worker.close()
    full, agent = harness.users[0], harness.agents[0]
    run(
        database,
        f"INSERT INTO public.user_agents (user_id, agent_id, {column}) VALUES (%s, %s, %s)",
        *(full, agent, FULL[column]),
    )
    harness.publish(*(event(user, agent) for user in harness.users[1:]))
    harness.flush()
    for _ in range(2):
        harness.publish(*(event(user, agent) for user in harness.users[1:] for _ in range(20)))
        harness.publish(*(event(full, agent, success=success) for success in (True, False, True)), counted=False)
        assert harness.flush() == Intake(383, 380, 0, 3)
    reason = {"error_count": "success_count"}.get(column, column)
    reasons = {dead_letter["reason"].partition(":")[0] for dead_letter in harness.dead_letters()}
    assert reasons == {reason}
    assert len(harness.dead_letters()) == 6
    counted = "SELECT sum(usage_count) FROM public.user_agents WHERE user_id <> %s"
    assert run(database, counted, full) == [(19 * 41,)]
    assert run(database, f"SELECT {column} FROM public.user_agents WHERE user_id = %s", full) == [(FULL[column],)]
    # Once for each attempt, shard and day. Halving would need dozens.
    staged = "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'usage_events_ensure_day' AND calls > 0"
    harness.worker.close()
    # The session reports its calls when it ends.
    eventually(lambda: run(database, staged))
    assert 3 <= run(database, staged)[0][0] <= 16
    with pytest.raises(
        psycopg.errors.NumericValueOutOfRange, match="track_agent_usage: usage_count or another counter"
    ):
        run(database, "SELECT public.track_agent_usage(%s, %s, false, 5, 1, 100)", full, agent)
