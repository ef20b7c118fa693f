"""Realistic traffic from a seed: who uses which agent how often, how long the answers are, what they cost."""

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

# What a production installation looked like: its top pair took 35 % of the events, its top five 78 %, top ten 90 %.
_TOP = [0.35, *[0.43 / 4] * 4, *[0.12 / 5] * 5]
_LARGE, _SUCCESS = 0.3, 0.97
# Five questions and answers, ten messages, until a user begins another conversation.
_NEW_CONVERSATION = 0.2
# Dollars per token, input and output.
_MODELS = {
    "small": (Decimal("0.0000001500"), Decimal("0.0000006000")),
    "large": (Decimal("0.0000025000"), Decimal("0.0000100000")),
}


@dataclass(frozen=True, slots=True)
class Population:
    """Users and agents that exist; the same for the same seed."""

    users: list[UUID]
    agents: list[UUID]

    @classmethod
    def of(cls, users: int, agents: int, seed: int = 0) -> Population:
        return cls(
            [uuid5(NAMESPACE_OID, f"user {seed} {number}") for number in range(users)],
            [uuid5(NAMESPACE_OID, f"agent {seed} {number}") for number in range(agents)],
        )

    def pairs(self) -> list[tuple[UUID, UUID]]:
        return [(user, agent) for user in self.users for agent in self.agents]


def usage(population: Population, count: int, mix: Mix, seed: int) -> Iterator[dict[str, Any]]:
    """`count` events as the fields of `UsagePublisher.track`, without identity and time."""
    random = Random(seed)  # noqa: S311 - repeatable traffic, not secrets
    pairs = population.pairs()
    Random(0).shuffle(pairs)  # noqa: S311 - every seed agrees on which pairs are the hot ones
    weights = _weights(len(pairs), mix)
    first, partial_report = random.getrandbits(64), Counter[tuple[UUID, UUID]]()
    for pair in random.choices(pairs, cum_weights=weights, k=count):
        partial_report[pair] += random.random() < _NEW_CONVERSATION
        user_id, agent_id = pair
        # The bits of the pair make an id without another hash.
        conversation = UUID(int=user_id.int ^ (agent_id.int >> 1) ^ (first + partial_report[pair]))
        yield {"user_id": user_id, "agent_id": agent_id, "conversation_id": conversation, **_answer(random)}


def _weights(pairs: int, mix: Mix) -> list[float] | None:
    if mix == "uniform" or pairs <= len(_TOP):
        return None
    rest = (1 - sum(_TOP)) / (pairs - len(_TOP))
    return list(accumulate([*_TOP, *[rest] * (pairs - len(_TOP))]))


def _answer(random: Random) -> dict[str, Any]:
    model = "large" if random.random() < _LARGE else "small"
    price_in, price_out = _MODELS[model]
    input_tokens, output_tokens = int(random.lognormvariate(6.5, 1.2)), int(random.lognormvariate(5, 1))
    success = random.random() < _SUCCESS
    return {
        "messages": 2 if success else 1,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cost_usd": input_tokens * price_in + output_tokens * price_out,
        "response_time_ms": int(random.lognormvariate(6.8, 0.6)) if success else None,
        "success": success,
        "model": model,
    }
