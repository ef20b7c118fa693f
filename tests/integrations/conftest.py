"""A publisher on a real Valkey, and what it has sent there; a provider that answers from this machine."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import pytest

from tests.helpers import eventually
from tests.integrations.provider import provider
from usage_worker import UsagePublisher
from usage_worker.events.spelled_out import spelled_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.servers import Valkey

# LiteLLM would fetch its prices otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


class Published(NamedTuple):
    """A publisher and its Valkey."""

    usage: UsagePublisher
    redis: redis.Redis

    def events(self, number: int) -> list[dict[str, Any]]:
        """Return the events once so many are accepted, by time; frameworks call their hooks in other threads."""
        eventually(lambda: self.usage.stats().accepted >= number)
        assert self.usage.flush()
        return self.arrived(number)

    def arrived(self, number: int) -> list[dict[str, Any]]:
        """Return the events once so many have arrived, also from other processes."""
        eventually(lambda: len(events_in(self.redis)) >= number, 60)
        events = events_in(self.redis)
        assert len(events) == number
        return sorted(events, key=lambda event: str(event["occurred_at"]))


def broker_url(valkey: Valkey) -> str:
    """Return the URL of another database of the same Valkey, as Celery writes it."""
    return valkey.url(1).replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")


def events_in(client: redis.Redis) -> list[dict[str, Any]]:
    """Return the events of all shards, with the originals of ids where an entry has them."""
    shards: Any = [client.xrange(f"usage:events:{{{shard}}}") for shard in range(2)]
    return [event for shard in shards for _, entry in shard for event in _events_of(entry)]


def _events_of(entry: dict[bytes, bytes]) -> list[dict[str, Any]]:
    body, ids = json.loads(entry[b"events"]), json.loads(entry.get(b"ids", b"{}"))
    events = body if entry[b"v"] == b"1" else spelled_out(body)
    for event in events:
        event |= {f"{kind}_id": its[made] for kind, its in ids.items() if (made := event.get(f"{kind}_id")) in its}
    return events


@pytest.fixture
def published(redis_url: str, redis_client: redis.Redis) -> Iterator[Published]:
    with UsagePublisher(redis_url, linger=0) as usage:
        yield Published(usage, redis_client)


@pytest.fixture
def usage(published: Published) -> UsagePublisher:
    return published.usage


@pytest.fixture(scope="session")
def provider_url() -> Iterator[str]:
    with provider() as url:
        yield url


def without_measurements(event: dict[str, Any], since: datetime) -> dict[str, Any]:
    """Return an event without identity, time and duration, which are checked: it happened from `since` until now."""
    assert since < datetime.fromisoformat(event.pop("occurred_at")) < datetime.now(UTC)
    assert 0 <= event.pop("response_time_ms") < 60_000
    assert UUID(event.pop("event_id"))
    return event
