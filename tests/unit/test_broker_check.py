"""The check of a broker of its own: it is well only where there is no concern."""

from __future__ import annotations

from typing import Any

import pytest

from usage_worker.monitoring.checks import broker
from usage_worker.monitoring.inspection import Inspection
from usage_worker.queue.server import facts_in
from usage_worker.settings import Settings

SAFE = {"redis_version": "7.2.4", "role": "master", "maxmemory_policy": "noeviction", "aof_enabled": 1}


@pytest.mark.parametrize(
    ("info", "states"),
    [
        ({"used_memory": 8, "maxmemory": 10}, ["ok"]),
        ({"used_memory": 9, "maxmemory": 10}, ["warn"]),
        ({"used_memory": 9, "maxmemory": 10, "maxmemory_policy": "allkeys-lru"}, ["warn", "fail"]),
    ],
)
def test_broker_is_ok_only_without_a_concern(
    info: dict[str, Any], states: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "broker_facts", lambda _settings: facts_in(SAFE | info))
    inspection = Inspection(Settings(broker_url="redis://messages:6379"))
    assert [check.state for check in broker.BROKER_SECTION.ask(inspection)] == states
