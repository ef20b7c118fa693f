"""What the flushes of a shard add up in its record: counters and histograms, for `usage-worker metrics`.

Each number is one field of the hash in Redis, a whole number: `failures/lock`, `seconds/0.1`. There are no more fields
than these sets allow, since a full Redis takes them, too. The name of none ends in a colon and digits, like those of
minutes, which workers delete when they are old.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, get_args

from usage_worker.events.refusals import Kind
from usage_worker.queue.own_keys import time_in, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Increments = Counter[str]
"""What is to be added to the fields of a record."""

FAILURES = ("postgresql_unavailable", "cancelled", "lock", "race", "schema", "settings", "clock", "redis", "other")
"""Kinds of errors that end a flush."""
QUARANTINED = get_args(Kind)
"""Kinds of reasons for dead letters."""


class Counts(NamedTuple):
    """A histogram as it was counted: pairs of an upper bound and how many values it or a lower one has, and their sum.

    The last bound is infinite, and has them all.
    """

    buckets: list[tuple[float, int]]
    total: float


class Histogram:
    """A histogram in a record.

    Args:
        name: how its fields begin.
        bounds: the upper bounds of its buckets; one without a bound follows.
        fraction: its sum is kept in this fraction of one, since it is a whole number.
    """

    def __init__(self, name: str, bounds: tuple[float, ...], fraction: int = 1) -> None:
        self.bounds = (*bounds, math.inf)
        self.fields = [f"{name}/{bound:g}" for bound in self.bounds]
        self.sum_field = f"{name}/sum"
        self._fraction = fraction

    def add(self, values: Iterable[float], increments: Increments) -> None:
        """Add values to the increments."""
        ordered = sorted(values)
        begin = 0
        for bound, field in zip(self.bounds, self.fields, strict=True):
            if begin == len(ordered):
                break
            end = bisect_right(ordered, bound, begin)
            if end > begin:
                increments[field] += end - begin
            begin = end
        increments[self.sum_field] += round(sum(ordered) * self._fraction)

    def read(self, fields: Mapping[bytes, bytes]) -> Counts:
        """Return what a record has."""
        counts = accumulate(_count(fields, field) for field in self.fields)
        return Counts(list(zip(self.bounds, counts, strict=True)), _count(fields, self.sum_field) / self._fraction)


SECONDS = Histogram("seconds", (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0), 1_000_000)
"""How long the transactions of batches took."""
EVENTS = Histogram("events", (1, 10, 50, 100, 500, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000))
"""The accepted events of batches."""
VISIBLE = Histogram(
    "visible", (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 86_400.0), 1_000
)
"""The seconds from Redis' acceptance of entries to their commit."""


class FlushCounters(NamedTuple):
    """What the flushes of a shard have added up since its record began; a record that nobody writes ends in a week.

    `succeeded_at`: when one last ended without an error, in seconds since 1970 by Redis' clock, None for never.
    `seconds` and `events` are of batches, `visible` of entries. `failures` are of flushes, `quarantined` of events, by
    kind.
    """

    succeeded_at: float | None
    seconds: Counts
    events: Counts
    visible: Counts
    failures: dict[str, int]
    quarantined: dict[str, int]


def counters_of(fields: Mapping[bytes, bytes]) -> FlushCounters:
    """Return the counters of a record; what is not a number of ours counts as 0."""
    return FlushCounters(
        time_in(fields.get(b"succeeded")),
        SECONDS.read(fields),
        EVENTS.read(fields),
        VISIBLE.read(fields),
        {kind: _count(fields, failure(kind)) for kind in FAILURES},
        {kind: _count(fields, quarantined(kind)) for kind in QUARANTINED},
    )


def failure(kind: str) -> str:
    """Return the field that counts failures of a kind."""
    return f"failures/{kind}"


def quarantined(kind: Kind) -> str:
    """Return the field that counts quarantined events of a kind."""
    return f"quarantined/{kind}"


def _count(fields: Mapping[bytes, bytes], name: str) -> int:
    return whole(fields.get(name.encode()))
