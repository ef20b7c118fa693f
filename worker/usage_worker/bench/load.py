"""The events that a benchmark counts: generated from a seed, so that every process generates the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from usage_worker.testing import Population, generate_usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.testing import Mix

AGENTS = 10
"""The number of agents; each user has every one of them."""


@dataclass(frozen=True, slots=True)
class Load:
    """A number of events of a mix.

    Attributes:
        rate: events per second; 0 publishes as fast as possible.
    """

    events: int
    mix: Mix
    seed: int
    users: int
    rate: float = 0.0

    @property
    def population(self) -> Population:
        """The users and agents of the events."""
        return Population.of(self.users, AGENTS)

    def generate(self) -> Iterator[dict[str, Any]]:
        """Generate the events, as arguments of `UsagePublisher.track`."""
        return generate_usage(self.population, self.events, self.mix, self.seed)

    def arguments(self) -> list[str]:
        """Return the load as command-line arguments of a sender process."""
        return [str(self.events), self.mix, str(self.seed), str(self.users), str(self.rate)]

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> Load:
        """Make a load from what `arguments` returned."""
        events, mix, seed, users, rate = arguments
        return cls(int(events), cast("Mix", mix), int(seed), int(users), float(rate))
