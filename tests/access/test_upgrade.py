"""Users of 3.0.0 keep counting and writing while 4.0.0 revokes their right to write counters."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg

from tests.access.sample import OWNER, ROLES, act_as
from tests.helpers import eventually
from tests.integration.database import run
from usage_worker.migrate import Runner
from usage_worker.store.connection import Store
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from uuid import UUID

CLIENTS = 4
STATEMENTS = (
    "SELECT public.track_agent_usage(%s, %s, true, 7, 0.25, 100)",
    "UPDATE public.user_agents SET notes = 'x' WHERE (user_id, agent_id) = (%s, %s)",
    "SELECT public.soft_delete_user_agent(%s, %s)",
    "SELECT public.add_user_agent(%s, %s)",
)


def test_users_keep_access_during_upgrade(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    run(empty_database, "INSERT INTO auth.users (id) VALUES (%s)", OWNER)
    agents = [
        row[0]
        for row in run(
            empty_database,
            "INSERT INTO public.agents (name) SELECT 'a' FROM generate_series(1, %s) RETURNING id",
            CLIENTS,
        )
    ]
    counted = dict.fromkeys(agents, 0)
    over = threading.Event()

    def client(agent: UUID) -> None:
        with psycopg.connect(empty_database) as connection:
            while not over.is_set():
                for statement in STATEMENTS:
                    act_as(connection, ROLES["owner"])
                    assert connection.execute(statement.encode(), [OWNER, agent]).rowcount == 1
                    connection.commit()
                counted[agent] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client, agent) for agent in agents]
        try:
            eventually(lambda: all(counted.values()) or any(it.done() for it in running))
            runner.up()
            before = dict(counted)
            eventually(lambda: all(counted[it] > before[it] + 5 for it in agents) or any(it.done() for it in running))
        finally:
            over.set()
        for it in running:
            it.result()
    found = run(empty_database, "SELECT agent_id, usage_count FROM public.user_agents")
    assert dict(found) == counted
    store = Store(empty_database)
    try:
        assert store.rows(testing_query("unbalanced")) == []
    finally:
        store.close()
