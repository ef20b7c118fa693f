"""Realistic traffic from a seed: which pairs are busy, how long the answers are, what they cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

if TYPE_CHECKING:
    from collections.abc import Iterator

Mix = Literal["uniform", "production"]
"""How events spread over the pairs: evenly, or as observed in production, where ten pairs have 90 % of them."""

# Observed in a production installation: the top pair had 35 % of the events, the top five 78 %, the top ten 90 %.
_TOP_SHARES = [0.35, *[0.43 / 4] * 4, *[0.12 / 5] * 5]
_LARGE_MODEL_SHARE, _SUCCESS_RATE = 0.3, 0.97
# A conversation has five uses on average, a question and an answer each.
_NEW_CONVERSATION_SHARE = 0.2
# US dollars per input token and per output token.
_PRICES = {
    "small": (Decimal("0.0000001500"), Decimal("0.0000006000")),
    "large": (Decimal("0.0000025000"), Decimal("0.0000100000")),
}


@dataclass(frozen=True, slots=True)
class Population:
    """The users and agents that traffic names; equal arguments and seeds give equal ids."""

    users: list[UUID]
    agents: list[UUID]

    @classmethod
    def of(cls, users: int, agents: int, seed: int = 0) -> Population:
        """Make the given numbers of users and agents."""
        return cls(
            [uuid5(NAMESPACE_OID, f"user {seed} {number}") for number in range(users)],
            [uuid5(NAMESPACE_OID, f"agent {seed} {number}") for number in range(agents)],
        )

    def pairs(self) -> list[tuple[UUID, UUID]]:
        """Return every user with every agent."""
        return [(user, agent) for user in self.users for agent in self.agents]


def generate_usage(population: Population, count: int, mix: Mix, seed: int) -> Iterator[dict[str, Any]]:
    """Generate usage events, the same ones for the same arguments.

    Args:
        population: the users and agents, who must exist where unknown ones are quarantined.
        count: the number of events.
        mix: how they spread over the pairs. Which pairs are the busy ones does not depend on the seed.
        seed: what makes the traffic of one process different from another's.

    Yields:
        The arguments of `UsagePublisher.track`, without `event_id` and `occurred_at`.
    """
    random = Random(seed)  # noqa: S311 - repeatable traffic, not secrets
    pairs = population.pairs()
    Random(0).shuffle(pairs)  # noqa: S311 - a fixed seed: all processes agree on the busy pairs
    weights = _cumulative_weights(len(pairs), mix)
    first_id, started = random.getrandbits(64), Counter[tuple[UUID, UUID]]()
    for pair in random.choices(pairs, cum_weights=weights, k=count):
        started[pair] += random.random() < _NEW_CONVERSATION_SHARE
        user_id, agent_id = pair
        # Derived from the bits of the pair: cheaper than one more hash for each event.
        conversation = UUID(int=user_id.int ^ (agent_id.int >> 1) ^ (first_id + started[pair]))
        yield {"user_id": user_id, "agent_id": agent_id, "conversation_id": conversation, **_request(random)}


def _cumulative_weights(pairs: int, mix: Mix) -> list[float] | None:
    if mix == "uniform" or pairs <= len(_TOP_SHARES):
        return None
    rest = (1 - sum(_TOP_SHARES)) / (pairs - len(_TOP_SHARES))
    return list(accumulate([*_TOP_SHARES, *[rest] * (pairs - len(_TOP_SHARES))]))


def _request(random: Random) -> dict[str, Any]:
    model = "large" if random.random() < _LARGE_MODEL_SHARE else "small"
    input_price, output_price = _PRICES[model]
    input_tokens, output_tokens = int(random.lognormvariate(6.5, 1.2)), int(random.lognormvariate(5, 1))
    success = random.random() < _SUCCESS_RATE
    return {
        "messages": 2 if success else 1,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cost_usd": input_tokens * input_price + output_tokens * output_price,
        "response_time_ms": int(random.lognormvariate(6.8, 0.6)) if success else None,
        "success": success,
        "model": model,
    }
