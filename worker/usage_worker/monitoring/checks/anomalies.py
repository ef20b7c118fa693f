"""Anomalies: those that go on, of all agents or of those that cost most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.anomalies import ANOMALIES
from usage_worker.maintenance.anomaly_words import meaning, subject
from usage_worker.monitoring.check import warn
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.service.schedule import OFF
from usage_worker.store.anomalies import may_read_anomalies, open_alerts
from usage_worker.wording import utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection
    from usage_worker.store.connection import Store


def _anomalies(inspection: Inspection) -> Iterator[Check]:
    # Where the task is off, nobody ends what is open.
    is_off = inspection.settings.schedule_anomalies.strip() == OFF
    if is_off or (run := inspection.last_runs.get(ANOMALIES)) is None:
        return
    inspection.figures.alerts = alerts = _alerts(inspection.store, run.report["alerts"])
    for alert in alerts:
        yield warn("anomalies", alert["text"], "see `usage-worker anomalies --open`")


def _alerts(store: Store, last_counts: dict[str, int]) -> list[dict[str, Any]]:
    """Return kind, number and text of the open alerts: each, or what the last run counted where our role sees none."""
    if may_read_anomalies(store):
        return [
            {
                "kind": it.kind,
                "count": 1,
                "text": f"{it.kind} of {subject(it)} since {utc(it.started_at)}: {meaning(it)}",
            }
            for it in open_alerts(store)
        ]
    return [
        {"kind": kind, "count": count, "text": f"{kind}: {count} go on; this role may not see of whom"}
        for kind, count in last_counts.items()
    ]


ANOMALIES_SECTION = Section(("anomalies",), _anomalies, needs=(POSTGRESQL,))
