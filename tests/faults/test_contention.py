"""Batches with few and many pairs, a hot pair, and six workers on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.helpers import eventually
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from tests.faults.harness import Event, Harness

WORKERS = 6


@pytest.mark.parametrize("pairs", [1, 101, 1_000, 2_000])
def test_distinct_pairs_in_one_batch(harness: Harness, pairs: int) -> None:
    """The batch has two events of each pair."""
    all_pairs = harness.population.pairs()
    events = [
        event | dict(zip(("user_id", "agent_id"), all_pairs[number % pairs], strict=True))
        for number, event in enumerate(harness.traffic(2 * pairs, days=1))
    ]
    harness.xadd(events, shard=0)
    harness.drain(0)
    harness.check()


def test_batch_of_five_thousand_pairs(harness: Harness) -> None:
    agents = harness.population.agents
    more = [uuid4() for _ in range(15)]
    harness.resources.store.rows(testing_query("seed_population"), users=[], agents=more)
    pairs = [(user, agent) for user in harness.population.users for agent in (*agents, *more)]
    assert len(pairs) == 5_000
    events = [
        event | {"user_id": user, "agent_id": agent}
        for event, (user, agent) in zip(harness.traffic(5_000, days=1), pairs, strict=True)
    ]
    harness.xadd(events, shard=0)
    harness.drain(0)
    harness.check()


@pytest.mark.parametrize("kind", ["one pair", "production mix"])
def test_workers_compete_for_few_pairs(harness: Harness, kind: str) -> None:
    events = harness.traffic(2_000, mix="production")
    if kind == "one pair":
        pair = {"user_id": harness.population.users[0], "agent_id": harness.population.agents[0]}
        events = [event | pair for event in events]
    with harness.workers(3):
        # Shards are chosen regardless of the user, so that workers compete for rows.
        scatter(harness, events, 50)
        eventually(harness.settled, 60)
    harness.check()


def test_six_workers_update_same_rows_in_opposite_orders(harness: Harness, capfd: pytest.CaptureFixture[str]) -> None:
    """No increment is lost, and no worker gives up a batch."""
    pairs = harness.population.pairs()[:200]
    events = harness.traffic(3_000, days=3)
    for number, event in enumerate(events):
        turn, place = divmod(number, len(pairs))
        user, agent = pairs[place if turn % 2 else -1 - place]
        event |= {"user_id": user, "agent_id": agent}
    scatter(harness, events, 200)
    with harness.workers(WORKERS):
        eventually(harness.settled, 90)
    harness.check()
    assert "ConcurrencyError" not in capfd.readouterr().err


def scatter(harness: Harness, events: list[Event], size: int) -> None:
    for start in range(0, len(events), size):
        harness.xadd(events[start : start + size], shard=start // size % 2)
