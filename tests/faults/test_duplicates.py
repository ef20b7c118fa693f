"""Duplicates in any order, delivered to several workers at once."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.faults.harness import Harness

STREAMS = [f"usage:events:{{{shard}}}" for shard in range(2)]


def entries_of(harness: Harness, key: str) -> list[Any]:
    found: Any = harness.redis.xrange(key)
    return list(found)


def test_duplicates_are_counted_once(harness: Harness) -> None:
    """Each event is sent one to five times: within an entry and a batch, across batches, shards and workers."""
    random = Random(4)
    copies = [event for event in harness.traffic(1_500) for _ in range(random.randint(1, 5))]
    random.shuffle(copies)
    with harness.workers(3):
        for start in range(0, len(copies), 40):
            harness.xadd(copies[start : start + 40], shard=random.randrange(2))
        harness.publish(copies[:700])
        eventually(harness.settled, 60)
    harness.check()
    assert harness.intake.duplicate == len(copies) + 700 - 1_500


def test_pack_sent_repeatedly_is_counted_once(harness: Harness) -> None:
    """A publisher that received no reply resends its packs; by their keys they are in the intake totals once."""
    events = harness.traffic(1_000)
    harness.publish(events)
    packs: list[tuple[str, Any]] = [(key, fields) for key in STREAMS for _, fields in entries_of(harness, key)]
    with harness.workers(3):
        for _ in range(6):
            for key, fields in packs:
                harness.redis.xadd(key, fields)
        eventually(harness.settled, 60)
    harness.check()
    assert harness.intake.duplicate == 0


def test_events_in_reverse_order(harness: Harness) -> None:
    """Events and ratings of one pair arrive newest first, in several batches."""
    user, agent = harness.population.users[0], harness.population.agents[0]
    events = [event | {"user_id": user, "agent_id": agent} for event in harness.traffic(200, days=20)]
    events.sort(key=lambda event: event["occurred_at"], reverse=True)
    for start in range(0, len(events), 20):
        harness.xadd(events[start : start + 20], shard=start // 20 % 2)
        harness.drain()
    harness.check()
