"""Applications of the old version go on through 1 → 2 → 3 → 2 and 2 → 4: no error, no long wait, nothing lost."""

from __future__ import annotations

import os
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
from usage_worker.migrate.adoption import adopt
from usage_worker.migrate.repair import repair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.migrate.move import Step

    Connection = psycopg.Connection[tuple[Any, ...]]

USERS, AGENTS = 500, 200
# `make migrate-traffic` upgrades 1,500 users to 4.0.0; the suite does not have the minutes.
USERS_TO_4 = int(os.environ.get("USAGE_MIGRATE_USERS", "100"))
TRANSACTIONS_A_SECOND = 200
# What PostgreSQL makes of a longer wait for a lock is an error. A busy machine took 250 ms for a step that held one.
LONGEST_WAIT = "-c lock_timeout=4s"
# Longer than any step waits for a lock before it gives way.
OPEN_SECONDS = 8.0


class Clients:
    """An application's sessions: each repeats its prepared statement and counts what was committed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.done: dict[str, int] = {}
        self.step = "before"
        self.longest: dict[str, float] = {}

    def __str__(self) -> str:
        step = max(self.longest, key=self.longest.__getitem__)
        return (
            f"the longest wait of a client {1000 * self.longest[step]:.0f} ms ({step}),"
            f" of {sum(self.done.values()):,} statements"
        )

    def during(self, step: Step) -> None:
        """Note the migration that is at work."""
        if step.migration and step.event == "started":
            self.step = step.migration.label

    def repeating(
        self, name: str, act: Callable[[Connection, random.Random], None], pause: float = 0
    ) -> Callable[[threading.Event], None]:
        """Return a client that repeats the act, with a pause after each; times are in seconds."""
        self.done[name] = 0

        def client(over: threading.Event) -> None:
            chosen = random.Random(name)
            with psycopg.connect(self._url, autocommit=True, options=LONGEST_WAIT, prepare_threshold=0) as connection:
                while not over.wait(pause):
                    began, step = time.perf_counter(), self.step
                    act(connection, chosen)
                    self.longest[step] = max(self.longest.get(step, 0), time.perf_counter() - began)
                    self.done[name] += 1

        return client

    @contextmanager
    def open_transaction(self, statement: str) -> Iterator[None]:
        """Keep a transaction open that began before the block and ends seconds later."""
        with psycopg.connect(self._url, options=LONGEST_WAIT) as connection:
            connection.execute(statement.encode())
            end = threading.Timer(OPEN_SECONDS, connection.commit)
            end.start()
            try:
                yield
            finally:
                end.join()

    def all_progressed(self) -> None:
        """Wait until every client has done more."""
        before = dict(self.done)
        eventually(lambda: all(self.done[name] > count for name, count in before.items()))


def seed(url: str, users: int = USERS) -> None:
    run(
        url,
        f"""
        INSERT INTO auth.users (email) SELECT 'u' FROM generate_series(1, {users});
        INSERT INTO public.agents (name) SELECT 'a' FROM generate_series(1, {AGENTS});
        INSERT INTO public.user_profiles (id) SELECT id FROM auth.users;
        """,
    )


def add_pairs(url: str) -> None:
    """Add a row of every user with every agent."""
    run(url, "INSERT INTO public.user_agents (user_id, agent_id) SELECT u.id, a.id FROM auth.users u, public.agents a")


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


class Application:
    """What an application of 2.0.0 does with the rows of its users."""

    def __init__(self, url: str) -> None:
        self.held, *self.pairs = run(url, "SELECT id, user_id FROM public.user_agents ORDER BY id")

    def write(self, connection: Connection, chosen: random.Random) -> None:
        change = "UPDATE public.user_agents SET usage_count = usage_count + 1, last_used_at = now() WHERE id = %s"
        assert connection.execute(change, [chosen.choice(self.pairs)[0]]).rowcount == 1

    def read(self, connection: Connection, chosen: random.Random) -> None:
        user_id = chosen.choice(self.pairs)[1]
        with connection.transaction():
            connection.execute("SET LOCAL ROLE authenticated")
            connection.execute("SELECT set_config('request.jwt.claim.sub', %s, true)", [str(user_id)])
            query = "SELECT id, agent_id, usage_count, is_active, metadata FROM public.user_agents WHERE user_id = %s"
            assert len(connection.execute(query, [user_id]).fetchall()) == AGENTS

    def insert_and_delete(self, connection: Connection, _: random.Random) -> None:
        joined = connection.execute("INSERT INTO auth.users (email) VALUES ('new') RETURNING id").fetchone()
        assert joined
        add = "INSERT INTO public.user_agents (user_id, agent_id) SELECT %s, id FROM public.agents LIMIT 1"
        connection.execute(add, joined)
        connection.execute("DELETE FROM auth.users WHERE id = %s", joined)

    def clients(self, clients: Clients, pause: float = 0) -> Iterator[Callable[[threading.Event], None]]:
        acts = {
            "write": self.write,
            "write more": self.write,
            "read": self.read,
            "insert and delete": self.insert_and_delete,
        }
        return (clients.repeating(name, act, pause) for name, act in acts.items())

    def check(self, url: str, clients: Clients) -> None:
        """Assert that every change arrived, and that every index is valid."""
        made = clients.done["write"] + clients.done["write more"]
        count = len(self.pairs) + 1
        assert run(url, "SELECT sum(usage_count), count(*) FROM public.user_agents") == [(made, count)]
        assert run(url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]

    def hold(self) -> str:
        """Return a statement after which nobody else can change one of the rows."""
        return f"UPDATE public.user_agents SET is_active = is_active WHERE id = '{self.held[0]}'"


@pytest.mark.size
def test_clients_of_2_work_during_up_to_3_and_down(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    seed(empty_database)
    add_pairs(empty_database)
    clients = Clients(empty_database)
    application = Application(empty_database)
    with traffic(*application.clients(clients)):
        for move, version in ((runner.up, "3.0.0"), (runner.down, "2.0.0")):
            clients.all_progressed()
            began = time.monotonic()
            with clients.open_transaction(application.hold()):
                move(version, on_step=clients.during)
            sys.stdout.write(f"\n{version} after {time.monotonic() - began:.1f} s, {clients}\n")
            assert runner.verify() == []
        clients.all_progressed()
    application.check(empty_database, clients)


@pytest.mark.size
@pytest.mark.timeout(900)
def test_clients_of_2_work_during_up_to_4(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    seed(empty_database, USERS_TO_4)
    add_pairs(empty_database)
    clients = Clients(empty_database)
    application = Application(empty_database)
    with traffic(*application.clients(clients, pause=4 / TRANSACTIONS_A_SECOND)):
        clients.all_progressed()
        began = time.monotonic()
        with clients.open_transaction(application.hold()):
            runner.up(on_step=clients.during)
        took = time.monotonic() - began
        clients.all_progressed()
    sys.stdout.write(f"\n{len(application.pairs) + 1:,} rows in {took:.1f} s, {clients}\n")
    for step, longest in clients.longest.items():
        sys.stdout.write(f"  {step}: {1000 * longest:.0f} ms\n")
    assert runner.verify() == []
    application.check(empty_database, clients)


# Objects of every kind that are made again on tables with traffic, and a view that is filled.
DAMAGE = """
    DROP MATERIALIZED VIEW public.user_agent_analytics CASCADE;
    DROP FUNCTION public.add_user_agent;
    DROP TRIGGER user_agents_take_shares ON public.user_agents;
    DROP POLICY "Editors can update shared agents" ON public.user_agents;
    DROP INDEX public.idx_user_agents_team;
    ALTER TABLE public.user_agents DROP CONSTRAINT user_agents_usage_count_check, RESET (fillfactor);
    ALTER TABLE public.user_agents ALTER folder SET DEFAULT 'x';
    REVOKE ALL ON public.user_agents FROM service_role;
"""
# As after psql with the files.
WITHOUT_JOURNAL = "DROP TABLE public.usage_migrations, public.usage_migration_objects"


@pytest.mark.size
def test_clients_work_during_repair_and_adoption(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    seed(empty_database, USERS_TO_4)
    add_pairs(empty_database)
    runner.up()
    clients = Clients(empty_database)
    application = Application(empty_database)
    with traffic(*application.clients(clients, pause=4 / TRANSACTIONS_A_SECOND)):
        for statement, move in ((DAMAGE, repair), (WITHOUT_JOURNAL, adopt)):
            run(empty_database, statement)
            clients.step = move.__name__
            clients.all_progressed()
            began = time.monotonic()
            with clients.open_transaction(application.hold()):
                assert move(empty_database).left == []
            took = time.monotonic() - began
            clients.all_progressed()
            sys.stdout.write(f"\n{move.__name__} in {took:.1f} s, {1000 * clients.longest[move.__name__]:.0f} ms\n")
    assert runner.verify() == []
    application.check(empty_database, clients)
