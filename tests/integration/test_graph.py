"""The counts of pairs equal an independent count, and only what many users share is published."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pydantic import ValidationError

from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.graphs import agent_id, expected_counts, kept_counts, load, next_day, use, user_id
from usage_worker.errors import BusyError, StoreUnavailableError
from usage_worker.maintenance.graph import GRAPH, update_graph
from usage_worker.maintenance.purge import PURGE
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.graph import recount_pairs, update_pair_counts
from usage_worker.store.purge import purge_blocks, purge_chunk
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from uuid import UUID

USERS, AGENTS = 150, 130
BATCHES, CHANGES = 10, 1_000
A, B, C = (agent_id(number) for number in range(3))


def relationships(url: str) -> set[tuple[UUID, UUID]]:
    return set(run(url, "SELECT source_id, target_id FROM public.agent_relationships WHERE kind = 'used_with'"))


def published(url: str) -> list[tuple[Any, ...]]:
    """Return all that users may read, without the time."""
    return run(
        url,
        "SELECT source_id, target_id, kind, weight, users, evidence::text FROM public.agent_relationships"
        " UNION ALL SELECT agent_id, NULL, NULL, NULL, users, NULL FROM public.agent_popularity ORDER BY 1, 2, 3",
    )


def share(url: str, common: int, others: int = 30) -> None:
    """Let users have both A and B, and others only C."""
    load(url, [{0, 1}] * common + [{2}] * others, 3)


class Changes:
    """Random changes of all kinds, a batch in one transaction."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self._url = url
        self._chance = chance

    def make(self, number: int) -> None:
        """Make the changes of a batch; every other one lets a user exceed a hundred agents."""
        with psycopg.connect(self._url) as connection:
            for kind in self._chance.choices(
                [self._use, self._use_late, self._delete, self._restore, self._remove, self._expire],
                [12, 3, 3, 2, 1, 1],
                k=CHANGES // 20,
            ):
                kind(connection)
            self._cross_the_limit(connection, exceed=number % 2 == 1)
            connection.execute("DELETE FROM auth.users WHERE id = %s", [user_id(self._chance.randrange(1, USERS))])
            if self._chance.random() < 0.3:
                connection.execute(
                    "DELETE FROM public.agents WHERE id = %s", [agent_id(self._chance.randrange(AGENTS))]
                )

    def _cross_the_limit(self, connection: psycopg.Connection, *, exceed: bool) -> None:
        if exceed:
            agents = connection.execute("SELECT id FROM public.agents ORDER BY id").fetchall()
            use(connection, [(user_id(0), agent) for (agent,) in agents])
        connection.execute(
            "UPDATE public.user_agents SET deleted_at = CASE WHEN NOT %s AND agent_id < %s THEN now() END"
            " WHERE user_id = %s",
            [exceed, agent_id(40), user_id(0)],
        )

    def _use(self, connection: psycopg.Connection, days_ago: int = 0) -> None:
        """Twenty uses, half of them by the same user."""
        users = [self._user()] * 10 + [self._user() for _ in range(10)]
        pairs = {(user, self._agent()) for user in users}
        present = connection.execute(
            "SELECT u.id, a.id FROM unnest(%s::uuid[], %s::uuid[]) AS p (user_id, agent_id)"
            " JOIN auth.users u ON u.id = p.user_id JOIN public.agents a ON a.id = p.agent_id",
            [[user for user, _ in pairs], [agent for _, agent in pairs]],
        ).fetchall()
        if present:
            use(connection, present, days_ago)

    def _use_late(self, connection: psycopg.Connection) -> None:
        self._use(connection, self._chance.choice([5, 88, 89, 90, 91, 200]))

    def _delete(self, connection: psycopg.Connection) -> None:
        self._on_rows(connection, "UPDATE public.user_agents SET deleted_at = now()")

    def _restore(self, connection: psycopg.Connection) -> None:
        self._on_rows(connection, "UPDATE public.user_agents SET deleted_at = NULL")

    def _remove(self, connection: psycopg.Connection) -> None:
        self._on_rows(connection, "DELETE FROM public.user_agents")

    def _expire(self, connection: psycopg.Connection) -> None:
        self._on_rows(connection, "UPDATE public.user_agents SET last_used_at = now() - interval '91 days'")

    def _on_rows(self, connection: psycopg.Connection, statement: str) -> None:
        """Change what three users have of some agents: about twenty rows."""
        users, agents = [self._user() for _ in range(4)], [self._agent() for _ in range(12)]
        connection.execute(f"{statement} WHERE user_id = ANY (%s) AND agent_id = ANY (%s)".encode(), [users, agents])

    def _user(self) -> UUID:
        return user_id(self._chance.randrange(USERS))

    def _agent(self) -> UUID:
        return agent_id(self._chance.randrange(30))


def test_increments_equal_recount_after_random_changes(database: str, store: Store) -> None:
    load(database, [{0}] + [set()] * (USERS - 1), AGENTS)
    changes = Changes(database, random.Random(19))
    left_out = []
    for number in range(BATCHES):
        changes.make(number)
        update_pair_counts(store, GRAPH)
        assert kept_counts(database) == expected_counts(database)
        left_out += run(database, "SELECT bool_or(cardinality(agent_ids) > 100) FROM public.agent_graph_members")
    assert left_out == [(False,), (True,)] * (BATCHES // 2)
    run(database, "DELETE FROM auth.users WHERE id = %s", user_id(0))
    update_pair_counts(store, GRAPH)
    assert kept_counts(database) == expected_counts(database)
    assert recount_pairs(store, GRAPH) == 0


def test_pairs_that_one_user_starts_in_the_same_batch_count(database: str, store: Store) -> None:
    load(database, [{0}], 3)
    update_pair_counts(store, GRAPH)
    with psycopg.connect(database) as connection:
        use(connection, [(user_id(0), B), (user_id(0), C)])
    assert update_pair_counts(store, GRAPH) == (1, 5, 0)
    assert kept_counts(database) == {(A, A): 1, (A, B): 1, (A, C): 1, (B, B): 1, (B, C): 1, (C, C): 1}


def test_user_of_more_than_a_hundred_agents_is_left_out_until_one_goes(database: str, store: Store) -> None:
    load(database, [set(range(101)), {0, 1}], 101)
    report = update_graph(store, 10)
    assert (report.users, report.left_out_users) == (1, 1)
    assert kept_counts(database) == {(A, A): 1, (A, B): 1, (B, B): 1}
    run(database, "UPDATE public.user_agents SET deleted_at = now() WHERE agent_id = %s", agent_id(100))
    update_pair_counts(store, GRAPH)
    assert kept_counts(database) == expected_counts(database)
    assert kept_counts(database)[A, B] == 2
    run(database, "UPDATE public.user_agents SET deleted_at = NULL")
    update_pair_counts(store, GRAPH)
    assert kept_counts(database) == {(A, A): 1, (A, B): 1, (B, B): 1}


def test_row_without_use_and_share_are_no_membership(database: str, store: Store) -> None:
    load(database, [{0}], 3)
    run(database, "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s)", user_id(0), B)
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", user_id(1))
    run(
        database,
        "UPDATE public.user_agents SET is_shared = true, shared_with = ARRAY[%s::uuid]",
        user_id(1),
    )
    update_pair_counts(store, GRAPH)
    assert kept_counts(database) == {(A, A): 1}


def test_purged_pair_leaves_the_counts_once(database: str, store: Store) -> None:
    load(database, [{0, 1}, {0, 1}], 3)
    run(
        database,
        "UPDATE public.user_agents SET deleted_at = now() - interval '40 days' WHERE user_id = %s AND agent_id = %s",
        user_id(0),
        A,
    )
    update_pair_counts(store, GRAPH)
    assert kept_counts(database) == {(A, A): 1, (A, B): 1, (B, B): 2}
    for places in purge_blocks(store, timedelta(days=30), 500):
        assert purge_chunk(store, PURGE, places, timedelta(days=30)) == 1
    assert update_pair_counts(store, GRAPH) == (0, 0, 0)


def test_recount_repairs_what_was_damaged(database: str, store: Store) -> None:
    load(database, [{0, 1}, {1, 2}], 3)
    update_pair_counts(store, GRAPH)
    run(database, "UPDATE public.agent_pair_counts SET users = users + 3 WHERE agent_a = %s AND agent_b = %s", A, A)
    run(database, "DELETE FROM public.agent_pair_counts WHERE agent_a = %s AND agent_b = %s", A, B)
    run(database, "INSERT INTO public.agent_pair_counts (agent_a, agent_b, users) VALUES (%s, %s, 7)", A, C)
    assert update_graph(store, 10).different == 3
    assert kept_counts(database) == expected_counts(database)


def test_second_run_at_once_is_busy(database: str, store: Store) -> None:
    load(database, [{0, 1}], 3)
    with Store(database) as other, sole_transaction(store, GRAPH), pytest.raises(BusyError):
        update_graph(other, 10)
    assert update_graph(store, 10).changed_users == 1


def test_run_that_is_killed_between_counts_and_lists_leaves_neither(database: str, store: Store) -> None:
    load(database, [{0, 1}], 3)
    with psycopg.connect(database) as holder, ThreadPoolExecutor(1) as pool:
        # The counts are written, and the lists, which come next, wait.
        holder.execute("LOCK TABLE public.agent_graph_members IN SHARE MODE")
        running = pool.submit(update_pair_counts, store, GRAPH)
        waiting = "SELECT pid FROM pg_locks WHERE relation = 'public.agent_graph_members'::regclass AND NOT granted"
        ((pid,),) = eventually(lambda: run(database, waiting))
        run(database, "SELECT pg_terminate_backend(%s)", pid)
        with pytest.raises(StoreUnavailableError):
            running.result()
    assert kept_counts(database) == {}
    update_pair_counts(store, GRAPH)
    assert kept_counts(database) == expected_counts(database)


@pytest.mark.parametrize(("common", "related"), [(9, False), (10, True)])
def test_edge_needs_the_minimum_of_common_users(database: str, store: Store, common: int, related: bool) -> None:
    share(database, common)
    update_graph(store, 10)
    assert relationships(database) == ({(A, B), (B, A)} if related else set())
    assert [row[0] for row in run(database, "SELECT agent_id FROM public.agent_popularity ORDER BY agent_id")] == (
        [A, B, C] if related else [C]
    )


def test_edge_below_the_minimum_goes_at_the_next_days_run(database: str, store: Store) -> None:
    share(database, 10)
    update_graph(store, 10)
    run(database, "DELETE FROM auth.users WHERE id = %s", user_id(0))
    assert relationships(database) == {(A, B), (B, A)}
    next_day(database)
    update_graph(store, 10)
    assert relationships(database) == set()
    assert run(database, "SELECT FROM public.agent_graph_members WHERE user_id = %s", user_id(0)) == []


def test_deleted_agent_goes_at_once(database: str, store: Store) -> None:
    share(database, 10)
    update_graph(store, 10)
    run(database, "DELETE FROM public.agents WHERE id = %s", B)
    assert relationships(database) == set()
    assert kept_counts(database)[A, B] == 10
    update_graph(store, 10)
    assert kept_counts(database) == expected_counts(database)


def test_agent_that_is_deleted_while_relations_are_published_is_left_out(database: str, store: Store) -> None:
    share(database, 10)
    update_pair_counts(store, GRAPH)
    with psycopg.connect(database) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("DELETE FROM public.agents WHERE id = %s", [B])
        running = pool.submit(update_graph, store, 10)
        eventually(lambda: run(database, "SELECT pid FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"))
        holder.commit()
        assert running.result().published
    assert relationships(database) == set()


def test_pairs_no_more_than_chance_are_not_related(database: str, store: Store) -> None:
    """Everybody uses A: that somebody uses B says nothing about it."""
    load(database, [{0, 1}] * 20 + [{0}] * 20, 3)
    update_graph(store, 10)
    assert relationships(database) == set()


def test_relations_are_published_once_a_day_or_with_another_minimum(database: str, store: Store) -> None:
    share(database, 9)
    assert update_graph(store, 10).published
    with psycopg.connect(database) as connection:
        use(connection, [(user_id(9), A), (user_id(9), B)])
    report = update_graph(store, 10)
    assert (report.changed_users, report.published, relationships(database)) == (1, False, set())
    next_day(database)
    assert update_graph(store, 10).published
    assert relationships(database) == {(A, B), (B, A)}
    assert update_graph(store, 20).published
    assert relationships(database) == set()


def test_one_user_more_changes_nothing_that_users_see(database: str, store: Store) -> None:
    share(database, 10)
    update_graph(store, 10)
    before = published(database)
    for user in range(10, 14):
        next_day(database)
        with psycopg.connect(database) as connection:
            use(connection, [(user_id(user), A), (user_id(user), B)])
        run(
            database,
            "UPDATE public.user_agents SET deleted_at = now() WHERE user_id = %s AND agent_id = %s",
            user_id(user),
            C,
        )
        assert update_graph(store, 10).published
        assert kept_counts(database)[A, B] == user + 1
        assert [row for row in published(database) if row[0] != C] == [row for row in before if row[0] != C]


def test_weight_is_the_cosine(database: str, store: Store) -> None:
    load(database, [{0, 1}] * 10 + [{0}] * 30 + [{2}] * 60, 3)
    update_graph(store, 10)
    rows = run(
        database,
        "SELECT weight, users, evidence FROM public.agent_relationships WHERE source_id = %s",
        A,
    )
    assert rows == [(0.5, 10, {"lift": 2.5, "window_days": 90})]


def test_minimum_is_at_least_five() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 5"):
        Settings(graph_min_users=4)
