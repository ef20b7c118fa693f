"""How many spikes of cost the detector finds, and how many it invents, on generated hours of agents."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.hourly import DAY, WEEK, Hour, write_hours
from tests.system.hourly_series import HOURS_A_WEEK, Agent, generate_hours, plant_spikes
from usage_worker.maintenance.episodes import episodes
from usage_worker.store.anomalies import Judging, Span
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    import pytest

    from tests.system.hourly_series import Spike
    from usage_worker.store.anomalies import Anomaly

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
HISTORY_WEEKS, JUDGED_WEEKS = 8, 4
FACTORS = (10, 5, 3)
AGENTS = int(os.environ.get("USAGE_ANOMALY_AGENTS", "30"))  # docs/anomalies.md has the figures of 100


def judged(url: str, agents: list[UUID], start: datetime, stop: datetime) -> list[Anomaly]:
    """Return the anomalies of the agents in at most a week, as the task finds them, without a least amount of money."""
    with Store(url) as store, store.connection() as connection:
        judging = Judging(connection, Span(start - 49 * DAY, start, stop))
        return list(episodes(judging.unusual_hours(agents, 0.0), stop, ()))


def hits(spike: Spike, found: Iterable[Anomaly]) -> bool:
    end = spike.start + timedelta(hours=spike.hours)
    return any(it.started_at < end and (it.ended_at or end) > spike.start for it in found)


def test_spikes_are_found_and_few_are_invented(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of the judged weeks has no spike; each of the others has one of each agent, of one size."""
    chance = random.Random(19)
    agents = [Agent.generated(chance) for _ in range(AGENTS)]
    first = BEGIN + HISTORY_WEEKS * WEEK
    planted = [
        spike
        for week, factor in enumerate(FACTORS, 1)
        for spike in plant_spikes(agents, first + week * WEEK, HOURS_A_WEEK, factor, chance)
    ]
    by_agent = {agent.id: [it for it in planted if it.agent_id == agent.id] for agent in agents}
    weeks = HISTORY_WEEKS + JUDGED_WEEKS
    series = generate_hours(agents, BEGIN, weeks, chance, by_agent)
    write_hours(
        database, (Hour(it.agent_id, it.hour, it.uses, it.cost_usd) for it in series), BEGIN, BEGIN + weeks * WEEK
    )
    found = [
        it
        for week in range(JUDGED_WEEKS)
        for it in judged(database, list(by_agent), first + week * WEEK, first + (week + 1) * WEEK)
        if it.agent_id
    ]
    recall: Counter[int] = Counter()
    for spike in planted:
        recall[spike.factor] += hits(spike, (it for it in found if it.kind == "cost" and it.agent_id == spike.agent_id))
    kinds = Counter(
        it.kind for it in found if not any(hits(spike, [it]) for spike in by_agent[it.agent_id or agents[0].id])
    )
    rates = {factor: recall[factor] / AGENTS for factor in FACTORS}
    alarms = {kind: count / (AGENTS * JUDGED_WEEKS) for kind, count in kinds.items()}
    with capsys.disabled():
        sys.stdout.write(f"\nrecall by size of spike: {rates}; false alarms an agent-week: {alarms}\n")
    assert rates[10] >= 0.85
    assert sum(alarms.values()) <= 0.1
