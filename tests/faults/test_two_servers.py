"""Two Redis servers feed one database, or one that forgot after a failover which ids it had given."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import redis

from usage_worker.service.resources import Resources

if TYPE_CHECKING:
    from tests.faults.harness import Harness
    from usage_worker.local import EmbeddedValkey


def test_same_id_of_two_servers_is_two_entries(harness: Harness, durable_valkey: EmbeddedValkey) -> None:
    url = durable_valkey.url(3)
    user, agent = str(harness.population.users[0]), str(harness.population.agents[0])
    milliseconds = int(datetime.now(UTC).timestamp() * 1000)
    with redis.Redis.from_url(url) as second:
        for number in range(100):
            for client, messages in ((harness.redis, 1), (second, 1_000)):
                events = json.dumps([{"user_id": user, "agent_id": agent, "messages": messages}])
                entry: Any = {"v": "1", "events": events}
                client.xadd("usage:events:{0}", entry, id=f"{milliseconds}-{number}")
        harness.drain()
        with closing(Resources(harness.resources.settings.model_copy(update={"redis_url": url}))) as other:
            assert other.flusher.flush(0, 60).intake.applied == 100
    assert harness.fetch("SELECT usage_count, message_count FROM user_agents") == [
        {"usage_count": 200, "message_count": 100_100}
    ]
    assert harness.intake == (200, 200, 0, 0)
