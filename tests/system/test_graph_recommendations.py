"""Recommendations of three generated sets, and every step on a large graph: `make bench-graph` prints its figures."""

from __future__ import annotations

import os
import random
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.integration.database import run
from tests.integration.graphs import hide_one, hits, load, next_day, planted_communities, uniform, zipf_with_topics
from usage_worker.maintenance.graph import GRAPH, update_graph
from usage_worker.store.connection import Store
from usage_worker.store.graph import publish_relationships, recount_pairs, update_pair_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.graphs import Sets

# `make bench-graph` takes 100,000; every statement runs on fewer, too.
USERS = int(os.environ.get("USAGE_GRAPH_USERS", "5000"))
# Users with 8 rows on average, a few with up to 60; without triggers and foreign keys, which take a minute.
LARGE = f"""
SET session_replication_role = 'replica';
INSERT INTO auth.users (id) SELECT md5('u' || u)::uuid FROM generate_series(1, {USERS}) u;
INSERT INTO public.agents (id, name) SELECT md5('a' || a)::uuid, 'agent ' || a FROM generate_series(0, 999) a;
SELECT setseed(0.19);
INSERT INTO public.user_agents (user_id, agent_id, usage_count, last_used_at)
SELECT md5('u' || u)::uuid, md5('a' || CASE WHEN random() < 0.8 THEN 50 * floor(20 * random() ^ 2) + u % 50
                                            ELSE floor(1000 * random() ^ 2) END)::uuid, 1, now()
  FROM generate_series(1, {USERS}) u, generate_series(1, CASE WHEN u % 50 = 0 THEN 80 ELSE 9 END)
ON CONFLICT DO NOTHING;
ANALYZE
"""
MORE = """
INSERT INTO public.user_agents (user_id, agent_id, usage_count, last_used_at)
SELECT u.id, a.id, 1, now()
  FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM auth.users ORDER BY id LIMIT 1000) u
  JOIN (SELECT id, row_number() OVER (ORDER BY id) AS place FROM public.agents) a ON a.place = u.place
ON CONFLICT DO NOTHING
"""

# Each agent leads to fifty others anywhere, so that three steps reach all: the most that a walk can meet.
DENSE = """
DELETE FROM public.agent_relationships;
INSERT INTO public.agent_relationships (source_id, target_id, kind, weight, users)
SELECT md5('a' || a)::uuid, md5('a' || (a + 1 + (a * 7919 + e * 104729) % 999) % 1000)::uuid, 'used_with',
       0.01 + 0.9 * random(), 10
  FROM generate_series(0, 999) a, generate_series(1, 50) e
"""


@pytest.fixture
def store(database: str) -> Store:
    return Store(database)


@pytest.mark.parametrize(
    ("generate", "least"),
    [(zipf_with_topics, 1.0), (planted_communities, 1.5), (uniform, 1.0)],
    ids=lambda it: getattr(it, "__name__", str(it)),
)
def test_recommendations_find_what_was_left_out(
    database: str, store: Store, generate: Callable[[random.Random, int, int], Sets], least: float
) -> None:
    chance = random.Random(19)
    sets = generate(chance, 3_000, 200)
    hidden = hide_one(chance, sets, 500)
    load(database, sets, 200)
    with store:
        update_graph(store, 10)
    found, popular = hits(database, hidden)
    show(generate.__name__, f"hit@10 {found:.3f}, popularity {popular:.3f}")
    assert found >= least * popular > 0


def test_large_graph_is_counted_and_walked(database: str, store: Store) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(LARGE.encode())
    with store:
        show("pairs of user and agent", run(database, "SELECT count(*) FROM public.user_agents")[0][0])
        show("first run", timed(lambda: update_pair_counts(store, GRAPH)))
        run(database, MORE)
        show("1,000 more", timed(lambda: update_pair_counts(store, GRAPH)))
        run(database, "ANALYZE public.agent_pair_counts, public.agent_graph_members")
        show("recount", different := timed(lambda: recount_pairs(store, GRAPH)))
        show("relationships", timed(lambda: publish_relationships(store, GRAPH, 10)))
        next_day(database)
        show("relationships, next day", timed(lambda: publish_relationships(store, GRAPH, 10)))

    assert different[1] == 0
    run(database, DENSE)
    run(database, "ANALYZE public.agent_relationships, public.agent_popularity")
    for depth, per_node in ((2, 10), (3, 10), (3, 20), (4, 20)):
        seconds, reached = walk(database, depth, per_node)
        show(f"depth {depth}, {per_node} a node", f"{1000 * seconds:.1f} ms, {reached} agents")
    assert reached <= 999


def show(what: str, figure: object) -> None:
    sys.stdout.write(f"{what}: {figure}\n")


def timed(step: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds that a step took, and its result."""
    started = time.monotonic()
    result = step()
    return round(time.monotonic() - started, 2), result


def walk(url: str, depth: int, per_node: int) -> tuple[float, int]:
    """Return the median seconds of neighbourhoods as a user sees them, and the largest number of agents."""
    agents = [row[0] for row in run(url, "SELECT agent_id FROM public.agent_popularity ORDER BY agent_id LIMIT 10")]
    seconds, reached = [], 0
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET ROLE authenticated")
        for agent in agents:
            started = time.monotonic()
            rows = connection.execute(
                "SELECT agent_id FROM public.agent_neighbourhood(%s, %s, %s)", [agent, depth, per_node]
            ).fetchall()
            seconds.append(time.monotonic() - started)
            reached = max(reached, len(set(rows)))
            assert len(set(rows)) == len(rows)
    return median(seconds), reached
