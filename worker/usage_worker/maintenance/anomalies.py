"""The task `analytics.anomalies`: compare the hours that are over with the same hours of the weeks before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.episodes import episodes
from usage_worker.maintenance.task_run import run_task
from usage_worker.store import judging, require_owner

if TYPE_CHECKING:
    from datetime import datetime

    from usage_worker.settings import Settings
    from usage_worker.store import Store

ANOMALIES = "analytics.anomalies"
# No hour is judged before so much of its agent's history is known.
HISTORY = timedelta(weeks=4)
# Rows are kept of every agent; even with one false alarm in 18 agent-weeks, those of 1,000 agents would be 8 alerts a day.
ALERTING_AGENTS = 20


@dataclass(frozen=True, slots=True)
class AnomaliesReport:
    """What a run found: hours are judged until `judged_until`, and those of the total from `judged_from` on."""

    judged_until: datetime
    judged_from: datetime | None
    """None: there are no hours yet."""
    agents: int
    """Number of the agents that were judged."""
    new_agents: int
    """Number of the agents with less than four weeks of history, which are not."""
    open: int
    """Number of the anomalies that have not ended."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "judged_until": self.judged_until.isoformat(),
            "judged_from": self.judged_from and self.judged_from.isoformat(),
            "agents": self.agents,
            "new_agents": self.new_agents,
            "open": self.open,
        }


def find_anomalies(store: Store, settings: Settings) -> AnomaliesReport:
    """Judge the hours that are over, in one transaction: an interruption leaves everything as it was.

    Raises:
        BusyError: another process judges.
        SettingsError: our role does not own the tables.
    """
    require_owner(store)
    with judging(store, ANOMALIES) as judge:
        stop = judge.span.stop
        agents = judge.agents(ALERTING_AGENTS)
        begins = {it.agent_id: it.first_hour + HISTORY for it in agents}
        first = min(begins.values(), default=None)
        judged = [agent for agent, begin in begins.items() if begin < stop]
        hours = list(judge.continued())
        if judged:
            unusual = judge.unusual_hours(judged, settings.anomaly_min_usd)
            hours += (it for it in unusual if it.hour >= (begins[it.agent_id] if it.agent_id else first))
        found = list(episodes(hours, stop, {None, *(it.agent_id for it in agents if it.is_alert)}))
        judge.keep(found, settings.hourly_retention_days)
    opened = sum(it.ended_at is None for it in found)
    return AnomaliesReport(stop, first, len(judged), len(agents) - len(judged), opened)


def run_find_anomalies(store: Store, settings: Settings) -> dict[str, Any]:
    """Compare the hours that are over with the same hours of the weeks before."""
    return run_task(store, ANOMALIES, lambda: find_anomalies(store, settings))
