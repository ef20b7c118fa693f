"""The task `analytics.anomalies`: compare the hours that are over with the same hours of the weeks before."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.episodes import episodes
from usage_worker.maintenance.partitioned_table import hourly_days
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.anomalies import judging, open_alerts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.settings import Settings
    from usage_worker.store.anomalies import Anomaly, JudgedAgent, Judging, UnusualHour
    from usage_worker.store.connection import Store

ANOMALIES = "analytics.anomalies"
# No hour is judged before so much of its agent's history is known.
HISTORY = timedelta(weeks=4)
# Rows are kept of every agent; with a false alarm in 20 agent-weeks, those of 1,000 agents would be 7 alerts a day.
ALERTING_AGENTS = 20


@dataclass(frozen=True, slots=True)
class AnomaliesReport:
    """What a run found."""

    judged_from: str | None
    """Time, ISO 8601, from which on hours of the total are judged; None: no hour is known yet."""
    judged_until: str
    """Time until which hours are judged."""
    agents: int
    """Number of agents that were judged."""
    new_agents: int
    """Number of agents with less than four weeks of history, which were not."""
    open: int
    """Number of anomalies that have not ended."""
    alerts: dict[str, int]
    """Number of those that alert, by kind. No names: workers that count read this report, but not the anomalies."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_anomalies(store: Store, settings: Settings) -> AnomaliesReport:
    """Judge the hours that are over, in one transaction: an interruption leaves everything as it was.

    Raises:
        BusyError: another process judges.
    """
    with judging(store, ANOMALIES) as judge:
        agents, found = judge_span(judge, settings)
    first = min((it.first_hour for it in agents), default=None)
    judged = sum(_can_judge(it, judge.span.stop) for it in agents)
    return AnomaliesReport(
        judged_from=None if first is None else (first + HISTORY).isoformat(),
        judged_until=judge.span.stop.isoformat(),
        agents=judged,
        new_agents=len(agents) - judged,
        open=sum(it.ended_at is None for it in found),
        alerts=dict(Counter(it.kind for it in open_alerts(store))),
    )


def judge_span(judge: Judging, settings: Settings) -> tuple[list[JudgedAgent], list[Anomaly]]:
    """Judge the hours of a span and keep what was found. Returns the agents, and the anomalies of the span."""
    agents = judge.agents(ALERTING_AGENTS)
    alerting = {None, *(it.agent_id for it in agents if it.is_alert)}
    hours = [*judge.continued(), *_unusual(judge, agents, settings.anomaly_min_usd)]
    found = list(episodes(hours, judge.span.stop, alerting))
    judge.keep(found, hourly_days(settings))
    return agents, found


def run_find_anomalies(store: Store, settings: Settings) -> dict[str, Any]:
    """Compare the hours that are over with the same hours of the weeks before."""
    return run_task(store, ANOMALIES, lambda: find_anomalies(store, settings))


def _unusual(judge: Judging, agents: list[JudgedAgent], min_usd: float) -> Iterator[UnusualHour]:
    """Yield the unusual hours of the total and of each agent whose history is long enough."""
    begins = {it.agent_id: it.first_hour + HISTORY for it in agents if _can_judge(it, judge.span.stop)}
    if not begins:
        return
    first = min(begins.values())
    for hour in judge.unusual_hours(list(begins), min_usd):
        if hour.hour >= (first if hour.agent_id is None else begins[hour.agent_id]):
            yield hour


def _can_judge(agent: JudgedAgent, stop: datetime) -> bool:
    return agent.first_hour + HISTORY < stop
