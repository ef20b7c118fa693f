"""Users with agents for the graph: three generated sets, and what an independent count expects."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg

from tests.integration.database import run
from tests.integration.users import session_as

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping


# Each user by number, with the numbers of the agents.
Sets = list[set[int]]
TOPICS = 20


def agent_id(number: int) -> UUID:
    return UUID(int=1_000_000 + number)


def user_id(number: int) -> UUID:
    return UUID(int=2_000_000 + number)


def zipf_with_topics(chance: random.Random, users: int, agents: int) -> Sets:
    """Popularity by Zipf's law; four of five choices of a user are of the user's two topics."""
    weights = [1 / (rank + 1) for rank in range(agents)]
    return [_chosen(chance, weights, set(chance.sample(range(TOPICS), 2)), 0.8) for _ in range(users)]


def planted_communities(chance: random.Random, users: int, agents: int) -> Sets:
    """Flat popularity; nine of ten choices of a user are of the user's community."""
    return [_chosen(chance, [1.0] * agents, {chance.randrange(TOPICS)}, 0.9) for _ in range(users)]


def uniform(chance: random.Random, users: int, agents: int) -> Sets:
    """Nothing to learn: each agent is as likely as any other."""
    return [_chosen(chance, [1.0] * agents, set(range(TOPICS)), 1.0) for _ in range(users)]


def _chosen(chance: random.Random, weights: list[float], topics: set[int], share: float) -> set[int]:
    """Choose three to eight agents by their weights, a share of them only among those of the topics."""
    own = [weight if agent % TOPICS in topics else 0.0 for agent, weight in enumerate(weights)]
    wanted, chosen = chance.randint(3, 8), set[int]()
    while len(chosen) < wanted:
        chosen.add(chance.choices(range(len(weights)), own if chance.random() < share else weights)[0])
    return chosen


def load(url: str, sets: Sets, agents: int) -> None:
    """Insert the users and the agents, and a used row for each pair."""
    pairs = [(user_id(user), agent_id(agent)) for user, chosen in enumerate(sets) for agent in sorted(chosen)]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO auth.users (id) SELECT unnest(%s::uuid[])", [[*map(user_id, range(len(sets)))]])
        connection.execute(
            "INSERT INTO public.agents (id, name) SELECT id, 'agent ' || place"
            " FROM unnest(%s::uuid[]) WITH ORDINALITY AS a (id, place)",
            [[*map(agent_id, range(agents))]],
        )
        use(connection, pairs)


def use(connection: psycopg.Connection, pairs: Iterable[tuple[UUID, UUID]], days_ago: int = 0) -> None:
    """Use each pair once: a new row, or one that exists, as ingest counts it."""
    users, agents = zip(*pairs, strict=True)
    connection.execute(
        """
        INSERT INTO public.user_agents AS ua (user_id, agent_id, usage_count, last_used_at)
        SELECT p.user_id, p.agent_id, 1, now() - make_interval(days => %s)
          FROM unnest(%s::uuid[], %s::uuid[]) AS p (user_id, agent_id)
        ON CONFLICT (user_id, agent_id) DO UPDATE SET usage_count = coalesce(ua.usage_count, 0) + 1,
            last_used_at = greatest(ua.last_used_at, excluded.last_used_at)
        """,
        [days_ago, list(users), list(agents)],
    )


def expected_counts(url: str) -> dict[tuple[UUID, UUID], int]:
    """Count the pairs in Python, from the rows of user_agents."""
    agents: dict[UUID, list[UUID]] = {}
    rows = run(
        url,
        "SELECT user_id, agent_id FROM public.user_agents WHERE deleted_at IS NULL AND usage_count > 0"
        " AND (last_used_at AT TIME ZONE 'UTC')::date > (now() AT TIME ZONE 'UTC')::date - 90",
    )
    for user, agent in rows:
        agents.setdefault(user, []).append(agent)
    counts: Counter[tuple[UUID, UUID]] = Counter()
    for owned in agents.values():
        if len(owned) <= 100:
            counts.update(combinations_with_replacement(sorted(owned), 2))
    return dict(counts)


def kept_counts(url: str) -> dict[tuple[UUID, UUID], int]:
    rows = run(url, "SELECT agent_a, agent_b, users FROM public.agent_pair_counts")
    return {(first, second): users for first, second, users in rows}


def next_day(url: str) -> None:
    """Let the last publication be of yesterday."""
    run(url, "UPDATE public.agent_graph_state SET computed_at = computed_at - interval '1 day'")


def hits(url: str, hidden: Mapping[int, int], k: int = 10) -> tuple[float, float]:
    """Return which share of the hidden agents `agents_for_me` and popularity find within `k`."""
    found = popular = 0
    ranking = [row[0] for row in run(url, "SELECT agent_id FROM public.agent_popularity ORDER BY users DESC, agent_id")]
    with session_as(url, "authenticated") as connection:
        for user, agent in hidden.items():
            connection.execute(
                "SELECT set_config('request.jwt.claims', jsonb_build_object('sub', %s::text)::text, false)",
                [user_id(user)],
            )
            rows = connection.execute("SELECT agent_id FROM public.agents_for_me(%s)", [k]).fetchall()
            found += (agent_id(agent),) in rows
            own = {row[0] for row in connection.execute("SELECT agent_id FROM public.user_agents").fetchall()}
            popular += agent_id(agent) in [it for it in ranking if it not in own][:k]
    return found / len(hidden), popular / len(hidden)


def hide_one(chance: random.Random, sets: Sets, tested: int) -> dict[int, int]:
    """Take one agent away from each of some users, and return it by user."""
    hidden = {user: chance.choice(sorted(sets[user])) for user in chance.sample(range(len(sets)), tested)}
    for user, agent in hidden.items():
        sets[user].discard(agent)
    return hidden
