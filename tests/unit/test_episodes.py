"""Unusual hours that follow each other are one anomaly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from usage_worker.maintenance.anomaly_words import meaning
from usage_worker.maintenance.episodes import episodes
from usage_worker.store.anomalies import UnusualHour

BEGIN = datetime(2026, 3, 2, 10, tzinfo=UTC)
AGENT = UUID(int=7)


def at(number: int) -> datetime:
    return BEGIN + timedelta(hours=number)


def unusual(number: int, z: float = 7.0, kind: str = "cost", agent: UUID | None = AGENT) -> UnusualHour:
    return UnusualHour(agent, kind, at(number), at(number), 12.5, 2.5, 1.0, z, 12, {"uses": number})


def test_hours_are_joined_by_agent_and_kind_and_keep_the_worst() -> None:
    hours = [unusual(2), unusual(1, 9.0), unusual(4), unusual(2, kind="errors"), unusual(3, agent=None)]
    found = {(it.agent_id, it.kind, it.started_at): it for it in episodes(hours, at(5), {None})}
    assert {key: it.ended_at for key, it in found.items()} == {
        (AGENT, "cost", at(1)): at(3),
        (AGENT, "cost", at(4)): None,
        (AGENT, "errors", at(2)): at(3),
        (None, "cost", at(3)): at(4),
    }
    assert found[AGENT, "cost", at(1)].z == 9.0
    assert found[AGENT, "cost", at(1)].baseline == {"hour": at(1).isoformat(), "uses": 1}
    assert [it.agent_id for it in found.values() if it.is_alert] == [None]


def test_meaning_names_hour_amount_and_multiple() -> None:
    (anomaly,) = episodes([unusual(0)], at(5), ())
    assert meaning(anomaly) == "$12.50 in the hour from 2026-03-02 10:00 UTC, 5.0 times the expected"
