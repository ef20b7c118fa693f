"""Anomalies: what the last run of the task found that goes on, of all agents or of those that cost most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.maintenance import ANOMALIES
from usage_worker.monitoring.check import warn
from usage_worker.monitoring.inspection import POSTGRESQL, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection
    from usage_worker.store import TaskRun


def alerts(runs: dict[str, TaskRun]) -> list[dict[str, str]] | None:
    """Return kind and text of each open alert, None where no run is known.

    They come from the report of the run: the table itself is not readable for the role of the workers that count.
    """
    run = runs.get(ANOMALIES)
    return run.report.get("alerts", []) if run else None


def _anomalies(inspection: Inspection) -> Iterator[Check]:
    for alert in alerts(inspection.last_runs) or ():
        yield warn("anomalies", alert["text"], "see `usage-worker anomalies --open`")


ANOMALIES_SECTION = Section(("anomalies",), _anomalies, needs=(POSTGRESQL,))
