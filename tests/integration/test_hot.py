"""Counter updates are HOT since PostgreSQL 16: an event writes to none of the 23 indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg

from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.integration.conftest import IngestHarness

EVENTS, BATCHES = 3_000, 30


def test_updates_are_hot(harness: IngestHarness, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        pairs = [(user, agent) for user in harness.users for agent in harness.agents]
        harness.publish(*[{"event_id": uuid4(), "user_id": u, "agent_id": a} for u, a in pairs], counted=False)
        harness.flush()
        before = connection.execute("SELECT sum(usage_count) FROM user_agents").fetchone()
        assert before == (len(pairs),)
        for _ in range(BATCHES):
            some = [pairs[number % len(pairs)] for number in range(EVENTS // BATCHES)]
            harness.publish(*[{"event_id": uuid4(), "user_id": u, "agent_id": a} for u, a in some], counted=False)
            harness.flush()
        # A session reports its statistics at its end at the latest.
        harness.resources.close()
        statistics = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'user_agents'"

        def updated() -> tuple[int, int] | None:
            row = connection.execute(statistics).fetchone()
            return row if row and row[0] >= BATCHES * len(pairs) else None

        updates, hot = eventually(updated) or (0, 0)
        # Before 16, a BRIN index prevents HOT updates, too.
        if connection.info.server_version >= 160000:
            assert hot / updates > 0.9
        else:
            assert hot == 0
