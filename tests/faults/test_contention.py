"""Few keys and many, one hot pair, six workers on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.helpers import eventually
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from tests.faults.harness import Arena, Event

WORKERS = 6


@pytest.mark.parametrize("pairs", [1, 101, 1_000, 2_000])
def test_distinct_pairs_in_one_batch(arena: Arena, pairs: int) -> None:
    """Each pair twice."""
    all_pairs = arena.population.pairs()
    events = [
        event | dict(zip(("user_id", "agent_id"), all_pairs[number % pairs], strict=True))
        for number, event in enumerate(arena.traffic(2 * pairs, days=1))
    ]
    arena.xadd(events, shard=0)
    arena.drain(0)
    arena.check()


def test_five_thousand_pairs(arena: Arena) -> None:
    agents = arena.population.agents
    more = [uuid4() for _ in range(15)]
    arena.resources.store.rows(testing_query("seed_population"), users=[], agents=more)
    pairs = [(user, agent) for user in arena.population.users for agent in (*agents, *more)]
    assert len(pairs) == 5_000
    events = [
        event | {"user_id": user, "agent_id": agent}
        for event, (user, agent) in zip(arena.traffic(5_000, days=1), pairs, strict=True)
    ]
    arena.xadd(events, shard=0)
    arena.drain(0)
    arena.check()


@pytest.mark.parametrize("kind", ["one pair", "production mix"])
def test_the_load_on_few_pairs(arena: Arena, kind: str) -> None:
    events = arena.traffic(4_000, mix="production")
    if kind == "one pair":
        pair = {"user_id": arena.population.users[0], "agent_id": arena.population.agents[0]}
        events = [event | pair for event in events]
    with arena.workers(3):
        # Any shard, so that the workers really meet on the rows.
        scatter(arena, events, 50)
        eventually(arena.settled, 60)
    arena.check()


def test_six_workers_with_the_same_keys_in_opposite_orders(arena: Arena, capfd: pytest.CaptureFixture[str]) -> None:
    """No increment is lost, and nobody has to give up a batch."""
    pairs = arena.population.pairs()[:200]
    events = arena.traffic(6_000, days=3)
    for number, event in enumerate(events):
        forth, place = divmod(number, len(pairs))
        user, agent = pairs[place if forth % 2 else -1 - place]
        event |= {"user_id": user, "agent_id": agent}
    scatter(arena, events, 200)
    with arena.workers(WORKERS):
        eventually(arena.settled, 90)
    arena.check()
    assert "ConcurrencyError" not in capfd.readouterr().err


def scatter(arena: Arena, events: list[Event], size: int) -> None:
    for start in range(0, len(events), size):
        arena.xadd(events[start : start + size], shard=start // size % 2)
