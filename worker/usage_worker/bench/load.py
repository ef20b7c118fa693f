"""What a benchmark has to count, in every process the same, from a seed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from usage_worker.testing.workload import Population, usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.testing.workload import Mix

AGENTS = 10


@dataclass(frozen=True, slots=True)
class Load:
    """So many events of a mix; `rate` is in events per second, 0 as fast as possible."""

    events: int
    mix: Mix
    seed: int
    users: int
    rate: float = 0.0

    @property
    def population(self) -> Population:
        return Population.of(self.users, AGENTS)

    def fields(self) -> Iterator[dict[str, Any]]:
        """The events, as the arguments of `UsagePublisher.track`."""
        return usage(self.population, self.events, self.mix, self.seed)

    def arguments(self) -> list[str]:
        """The load for the command line of a sender."""
        return [str(self.events), self.mix, str(self.seed), str(self.users), str(self.rate)]

    @classmethod
    def of_arguments(cls, arguments: list[str]) -> Load:
        events, mix, seed, users, rate = arguments
        return cls(int(events), cast("Mix", mix), int(seed), int(users), float(rate))


def echo(word: object) -> None:
    """One line to the parent."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def get_ready() -> None:
    """Tell the parent that everything is prepared, and wait for its word."""
    echo("ready")
    sys.stdin.readline()
