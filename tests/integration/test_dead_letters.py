"""Dead letters from Python: pages, numbers, and a replay."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.unit.sockets import refusing_url
from usage_worker.errors import SettingsError, StreamUnavailableError
from usage_worker.maintenance import dead_letters
from usage_worker.maintenance.dead_letters import RepairEdits, ReplayReport, replay
from usage_worker.publisher import UsagePublisher
from usage_worker.store import Intake, Store

if TYPE_CHECKING:
    from tests.integration.conftest import IngestHarness
    from usage_worker.errors import EventRefusedError

WINDOW = timedelta(days=35)


def test_pages_and_numbers(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    store = quarantined(harness, 5)
    monkeypatch.setattr(dead_letters, "PAGE", 2)
    every = list(dead_letters.all_dead_letters(store))
    ids = [row["id"] for row in every]
    assert ids == sorted(ids)
    assert len(ids) == 5
    assert dead_letters.oldest_dead_letters(store, 3) == every[:3]
    assert dead_letters.dead_letters_by_id(store, [ids[4], ids[1], ids[4]]) == [every[1], every[4]]
    with pytest.raises(SettingsError, match=f"there is no dead letter {ids[4] + 1}$"):
        dead_letters.dead_letters_by_id(store, [ids[0], ids[4] + 1])


def test_replay_marks_sent_events_and_names_others(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    store = quarantined(harness, 5)
    monkeypatch.setattr(dead_letters, "PAGE", 2)
    rows = list(dead_letters.all_dead_letters(store))
    rows[2]["payload"] = "{"
    problems: list[int] = []

    def on_problem(number: int, error: EventRefusedError) -> None:
        assert "is not JSON" in str(error)
        problems.append(number)

    edits = RepairEdits({"user_id": str(harness.users[0])})
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
        assert replay(store, publisher, rows, edits, WINDOW, on_problem) == ReplayReport(sent=4, bad=1)
    assert problems == [rows[2]["id"]]
    assert [row["id"] for row in dead_letters.all_dead_letters(store)] == problems
    assert len(list(dead_letters.all_dead_letters(store, replayed=True))) == 5
    assert harness.flush() == Intake(4, 4, 0, 0)


def test_dead_letters_stay_if_redis_is_unreachable(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    store = quarantined(harness, 1)
    monkeypatch.setattr(dead_letters, "FLUSH_SECONDS", 0.1)
    publisher = UsagePublisher(refusing_url())
    rows = list(dead_letters.all_dead_letters(store))
    with pytest.raises(StreamUnavailableError, match="replay again"):
        replay(store, publisher, rows, RepairEdits(), WINDOW, lambda *_: None)
    assert list(dead_letters.all_dead_letters(store)) == rows
    publisher.close(timeout=0)


def quarantined(harness: IngestHarness, count: int) -> Store:
    """Quarantine events of unknown users."""
    events = ({"user_id": uuid4(), "agent_id": harness.agents[0]} for _ in range(count))
    harness.publish(*events, counted=False)
    assert harness.flush().quarantined == count
    return harness.resources.store
