"""What became of the events: the intake totals, and the share that was quarantined lately."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import POSTGRESQL, REDIS, Section
from usage_worker.monitoring.quarantine import quarantine
from usage_worker.queue.flush_record import MINUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

QUARANTINED_SHARE = 0.05


def _intake(inspection: Inspection) -> Iterator[Check]:
    inspection.figures.totals = inspection.store.intake_totals(as_arrived=True)
    inspection.figures.quarantine = quarantine(inspection.store)
    yield from ()


def _quarantined(inspection: Inspection) -> Iterator[Check]:
    flushes, commonest = inspection.figures.flushes or {}, inspection.figures.quarantine
    accepted, quarantined = (sum(getattr(it, name) for it in flushes.values()) for name in ("accepted", "quarantined"))
    if quarantined > QUARANTINED_SHARE * accepted:
        reason = f"{quarantined:,} of {accepted:,} events of the last {MINUTES} minutes were quarantined"
        if commonest:
            reason += f"; most often: {commonest.reason}"
        yield fail("quarantined", reason, commonest.remedy if commonest else "see `usage-worker dead-letters list`")


INTAKE = Section(("intake",), _intake, needs=(POSTGRESQL,))
QUARANTINED = Section(("quarantined",), _quarantined, needs=(REDIS,))
