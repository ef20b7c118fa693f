"""Generated hours of agents, with a season, growth, chance and planted spikes, by which a detector is judged.

Each agent has its own level, hours of the day, weekend, growth and cost of a use. Uses are Poisson distributed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping
    from datetime import datetime

HOURS_A_WEEK = 168
SATURDAY = 5
# Above it, the normal distribution is as good and needs no loop.
_LARGE_MEAN = 50.0


@dataclass(frozen=True, slots=True)
class Spike:
    """Uses, and so the cost, of an agent multiplied by `factor` for `hours` hours from `start`."""

    agent_id: UUID
    start: datetime
    hours: int
    factor: int

    def covers(self, agent_id: UUID, hour: datetime) -> bool:
        """Return whether the hour of the agent is part of the spike."""
        return agent_id == self.agent_id and self.start <= hour < self.start + timedelta(hours=self.hours)


@dataclass(frozen=True, slots=True)
class AgentHour:
    """An hour of an agent that had uses; `cost_usd` in US dollars."""

    agent_id: UUID
    hour: datetime
    uses: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Agent:
    """How an agent is used: `level` is its mean number of uses in an hour at the begin, `growth` the share a week."""

    id: UUID
    level: float
    day_season: float
    peak_hour: float
    weekend: float
    growth: float
    noise: float
    """Standard deviation of the logarithm of an hour's mean: uses come in bursts, which Poisson numbers lack."""
    usd_per_use: float

    @classmethod
    def generated(cls, chance: random.Random) -> Agent:
        """Generate an agent: levels have the median of 20 uses an hour, and differ by a factor of 2.7 (1 sigma)."""
        return cls(
            id=UUID(int=chance.getrandbits(128)),
            level=20 * math.exp(chance.gauss(0, 1)),
            day_season=chance.uniform(0.2, 0.8),
            peak_hour=chance.uniform(0, 24),
            weekend=chance.uniform(0.3, 1),
            growth=chance.uniform(-0.03, 0.08),
            noise=chance.uniform(0, 0.3),
            usd_per_use=0.02 * math.exp(chance.gauss(0, 1)),
        )

    def mean(self, begin: datetime, hour: datetime) -> float:
        """Return the mean number of uses of an hour; growth begins at `begin`."""
        weeks = (hour - begin) / timedelta(weeks=1)
        season = 1 + self.day_season * math.cos(math.tau * (hour.hour - self.peak_hour) / 24)
        weekend = self.weekend if hour.weekday() >= SATURDAY else 1.0
        return self.level * season * weekend * math.pow(1 + self.growth, weeks)

    def hour(self, begin: datetime, hour: datetime, chance: random.Random, factor: int = 1) -> AgentHour | None:
        """Generate an hour, None where it has no use. The cost of a use differs by half of its mean."""
        uses = _poisson(factor * self.mean(begin, hour) * math.exp(chance.gauss(0, self.noise)), chance)
        if not uses:
            return None
        spread = max(chance.gauss(1, 0.5 / math.sqrt(uses)), 0.05)
        return AgentHour(self.id, hour, uses, self.usd_per_use * uses * spread)


def generate_hours(
    agents: list[Agent], begin: datetime, weeks: int, chance: random.Random, spikes: Mapping[UUID, list[Spike]]
) -> Iterator[AgentHour]:
    """Yield the hours with uses of each agent, `weeks` from `begin`."""
    for agent in agents:
        for number in range(weeks * HOURS_A_WEEK):
            hour = begin + timedelta(hours=number)
            factor = math.prod(it.factor for it in spikes.get(agent.id, ()) if it.covers(agent.id, hour))
            if generated := agent.hour(begin, hour, chance, factor):
                yield generated


def plant_spikes(agents: list[Agent], begin: datetime, hours: int, factor: int, chance: random.Random) -> list[Spike]:
    """Return a spike of 1 to 3 hours for each agent, somewhere in the `hours` from `begin`."""
    return [
        Spike(agent.id, begin + timedelta(hours=chance.randrange(hours - 3)), chance.randint(1, 3), factor)
        for agent in agents
    ]


def _poisson(mean: float, chance: random.Random) -> int:
    if mean > _LARGE_MEAN:
        return max(round(chance.gauss(mean, math.sqrt(mean))), 0)
    # Knuth, The Art of Computer Programming 2, 3.4.1: multiply uniform numbers until their product is below exp(-mean).
    limit, number, product = math.exp(-mean), 0, chance.random()
    while product > limit:
        number += 1
        product *= chance.random()
    return number
