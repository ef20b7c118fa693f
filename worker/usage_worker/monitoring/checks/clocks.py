"""Clocks: those of the servers and of the processes must agree, since times decide what is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.events.event import MAX_CLOCK_DIFFERENCE
from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection


def _clocks(inspection: Inspection) -> Iterator[Check]:
    clocks = inspection.figures.clocks
    if "Redis" in clocks:
        # A process has compared its clock with that of Redis.
        clocks |= {it.name: clocks["Redis"] + it.clock_ahead for it in inspection.figures.alive}
    ours = {"this machine": 0.0, **clocks}
    behind, ahead = min(ours, key=ours.__getitem__), max(ours, key=ours.__getitem__)
    if (difference := ours[ahead] - ours[behind]) > MAX_CLOCK_DIFFERENCE.total_seconds():
        reason = f"the clock of {ahead} is {difference:,.0f} s ahead of that of {behind}"
        yield fail("clocks", reason, "set the clocks by NTP")


CLOCKS = Section(("clocks",), _clocks)
