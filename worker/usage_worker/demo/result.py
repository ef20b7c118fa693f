"""What the demo measured, and what it shows while it counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decimal import Decimal

    from usage_worker.store.intake import Intake


@dataclass(frozen=True, slots=True)
class LiveCounters:
    """The totals so far: those of the intake, and the sums of all counters."""

    intake: Intake
    uses: int
    tokens: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Outage:
    """What happened while no worker counted; the attributes are those of `DemoResult`."""

    killed_worker_pid: int
    killed_worker_entries: int
    backlog_events: int
    backlog_events_per_second: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        published: events handed to the publishers, duplicates included.
        accepted: events read from the queue: applied + duplicate + quarantined.
        applied: events counted.
        duplicate: events recognised as counted before.
        quarantined: events of a user who does not exist.
        exact: whether every counter equals the oracle's.
        differences: one line for each figure that does not.
        events_per_second: accepted events over the time from the first publisher's start, in which the worker was dead
            for some seconds.
        visible_p50_ms: from an event's time to the commit that made it visible, until the worker was killed.
        visible_p99_ms: likewise.
        killed_worker_pid: the worker that was killed in the middle of a batch.
        killed_worker_entries: the stream entries that it had read and not acknowledged.
        backlog_events: the events that waited when the worker was restarted.
        backlog_events_per_second: how fast they were worked off, from the worker's first read to the last commit.
        busiest_pair: the row of `user_agents_with_details` with the most uses, by column.
        flower_url: the address of Flower during the demo, None where Flower did not start.
    """

    published: int
    accepted: int
    applied: int
    duplicate: int
    quarantined: int
    exact: bool
    differences: list[str]
    events_per_second: float
    visible_p50_ms: float
    visible_p99_ms: float
    killed_worker_pid: int
    killed_worker_entries: int
    backlog_events: int
    backlog_events_per_second: float
    busiest_pair: dict[str, Any]
    flower_url: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return asdict(self)
