"""Clients of the old version work at full speed during 1 → 2 → 3 → 2: no error, no long wait, no lost write."""

from __future__ import annotations

import random
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.database import run, traffic
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Connection = psycopg.Connection[tuple[Any, ...]]

USERS, AGENTS = 1_500, 200
# A longer wait for a lock is an error; other waits depend on the load of the machine.
LONGEST_WAIT = "-c lock_timeout=250ms"
# Longer than any step waits for a lock before it gives up and retries.
OPEN_SECONDS = 3.0


class Clients:
    """Sessions of an application: each repeats a prepared statement and counts the commits."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.done: dict[str, int] = {}
        self.longest = 0.0

    def __str__(self) -> str:
        return f"longest wait of a client {1000 * self.longest:.0f} ms, of {sum(self.done.values()):,} statements"

    def repeating(
        self, name: str, act: Callable[[Connection, random.Random], None]
    ) -> Callable[[threading.Event], None]:
        self.done[name] = 0

        def client(over: threading.Event) -> None:
            chosen = random.Random(name)
            with psycopg.connect(self._url, autocommit=True, options=LONGEST_WAIT, prepare_threshold=0) as connection:
                while not over.is_set():
                    began = time.perf_counter()
                    act(connection, chosen)
                    self.longest = max(self.longest, time.perf_counter() - began)
                    self.done[name] += 1

        return client

    @contextmanager
    def open_transaction(self, statement: str) -> Iterator[None]:
        """Keep a transaction open that begins before the block and ends some seconds later."""
        with psycopg.connect(self._url, options=LONGEST_WAIT) as connection:
            connection.execute(statement.encode())
            end = threading.Timer(OPEN_SECONDS, connection.commit)
            end.start()
            try:
                yield
            finally:
                end.join()

    def all_progressed(self) -> None:
        """Wait until every client has made progress."""
        before = dict(self.done)
        eventually(lambda: all(self.done[name] > count for name, count in before.items()))


def seed(url: str) -> None:
    run(
        url,
        f"""
        INSERT INTO auth.users (email) SELECT 'u' FROM generate_series(1, {USERS});
        INSERT INTO public.agents (name) SELECT 'a' FROM generate_series(1, {AGENTS});
        INSERT INTO public.user_profiles (id) SELECT id FROM auth.users;
        """,
    )


def test_clients_of_1_work_during_up_to_2(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("1.0.0")
    seed(empty_database)
    clients = Clients(empty_database)
    held, *ids = [row[0] for row in run(empty_database, "SELECT id FROM public.agents ORDER BY id")]

    def write(connection: Connection, chosen: random.Random) -> None:
        change = "UPDATE public.agents SET description = coalesce(description, '') || '+' WHERE id = %s"
        connection.execute(change, [chosen.choice(ids)])

    def join(connection: Connection, _: random.Random) -> None:
        connection.execute("INSERT INTO auth.users (email) VALUES ('new')")

    with traffic(clients.repeating("write", write), clients.repeating("join", join)):
        clients.all_progressed()
        with clients.open_transaction(f"UPDATE public.agents SET name = name WHERE id = '{held}'"):
            runner.up("2.0.0")
        clients.all_progressed()
    assert run(empty_database, "SELECT sum(length(description)) FROM public.agents") == [(clients.done["write"],)]
    assert run(empty_database, "SELECT count(*) FROM auth.users") == [(USERS + clients.done["join"],)]
    assert runner.verify() == []


@pytest.mark.size
@pytest.mark.timeout(400)
def test_clients_of_2_work_during_up_to_3_and_down(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    seed(empty_database)
    run(
        empty_database,
        "INSERT INTO public.user_agents (user_id, agent_id) SELECT u.id, a.id FROM auth.users u, public.agents a",
    )
    clients = Clients(empty_database)
    held, *pairs = run(empty_database, "SELECT id, user_id FROM public.user_agents ORDER BY id")
    assert len(pairs) == 299_999

    def write(connection: Connection, chosen: random.Random) -> None:
        change = "UPDATE public.user_agents SET usage_count = usage_count + 1, last_used_at = now() WHERE id = %s"
        assert connection.execute(change, [chosen.choice(pairs)[0]]).rowcount == 1

    def read(connection: Connection, chosen: random.Random) -> None:
        user_id = chosen.choice(pairs)[1]
        with connection.transaction():
            connection.execute("SET LOCAL ROLE authenticated")
            connection.execute("SELECT set_config('request.jwt.claim.sub', %s, true)", [str(user_id)])
            query = "SELECT id, agent_id, usage_count, is_active, metadata FROM public.user_agents WHERE user_id = %s"
            assert len(connection.execute(query, [user_id]).fetchall()) == AGENTS

    def insert_and_delete(connection: Connection, _: random.Random) -> None:
        joined = connection.execute("INSERT INTO auth.users (email) VALUES ('new') RETURNING id").fetchone()
        assert joined
        add = "INSERT INTO public.user_agents (user_id, agent_id) SELECT %s, id FROM public.agents LIMIT 1"
        connection.execute(add, joined)
        connection.execute("DELETE FROM auth.users WHERE id = %s", joined)

    with traffic(
        clients.repeating("write", write),
        clients.repeating("write more", write),
        clients.repeating("read", read),
        clients.repeating("insert and delete", insert_and_delete),
    ):
        for move, version in ((runner.up, "3.0.0"), (runner.down, "2.0.0")):
            clients.all_progressed()
            began = time.monotonic()
            with clients.open_transaction(
                f"UPDATE public.user_agents SET is_active = is_active WHERE id = '{held[0]}'"
            ):
                move(version)
            sys.stdout.write(f"\n{version} after {time.monotonic() - began:.1f} s, {clients}\n")
            assert runner.verify() == []
        clients.all_progressed()
    made = clients.done["write"] + clients.done["write more"]
    assert run(empty_database, "SELECT sum(usage_count), count(*) FROM public.user_agents") == [(made, 300_000)]
    assert run(empty_database, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
