"""A storm of duplicates in any order, and the same events in many hands at once."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.faults.harness import Arena

STREAMS = [f"usage:events:{{{shard}}}" for shard in range(2)]


def entries_of(arena: Arena, key: str) -> list[Any]:
    found: Any = arena.redis.xrange(key)
    return list(found)


def test_a_storm(arena: Arena) -> None:
    """Each event one to five times: within an entry, within a batch, across batches, shards and workers."""
    random = Random(4)
    copies = [event for event in arena.traffic(1_500) for _ in range(random.randint(1, 5))]
    random.shuffle(copies)
    with arena.workers(3):
        for start in range(0, len(copies), 40):
            arena.xadd(copies[start : start + 40], shard=random.randrange(2))
        arena.publish(copies[:700])
        eventually(arena.settled, 60)
    arena.check()
    assert arena.intake.duplicate == len(copies) + 700 - 1_500


def test_the_same_pack_sent_again_and_again(arena: Arena) -> None:
    """A publisher that never heard that its packs had arrived: known by their key, they are in the books once."""
    events = arena.traffic(1_000)
    arena.publish(events)
    packs: list[tuple[str, Any]] = [(key, fields) for key in STREAMS for _, fields in entries_of(arena, key)]
    with arena.workers(3):
        for _ in range(6):
            for key, fields in packs:
                arena.redis.xadd(key, fields)
        eventually(arena.settled, 60)
    arena.check()
    assert arena.intake.duplicate == 0


def test_backwards_in_time(arena: Arena) -> None:
    """One pair's events and ratings, the newest first, in batches of their own."""
    user, agent = arena.population.users[0], arena.population.agents[0]
    events = [event | {"user_id": user, "agent_id": agent} for event in arena.traffic(200, days=20)]
    events.sort(key=lambda event: event["occurred_at"], reverse=True)
    for start in range(0, len(events), 20):
        arena.xadd(events[start : start + 20], shard=start // 20 % 2)
        arena.drain()
    arena.check()
