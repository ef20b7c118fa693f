"""A publisher of many threads behind a bad network: nothing is lost but what `stats()` says."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from tests.helpers import eventually
from tests.integration.bad_network import bad_network
from tests.integration.test_publisher import entries
from usage_worker import EventLoss, UsagePublisher

if TYPE_CHECKING:
    import redis

    from tests.integration.bad_network import BadNetwork, Mode

AGENT = uuid4()
THREADS, EVENTS = 32, 60


def identities(client: redis.Redis) -> list[str]:
    """Return the identities of the events that a worker counts: entries of one key count once."""
    by_key = {fields[b"id"]: json.loads(fields[b"events"])["event_id"] for fields in entries(client)}
    return [str(UUID(identity)) for events in by_key.values() for identity in events]


def track_in_threads(usage: UsagePublisher) -> list[str]:
    """Track from many threads at once; return the identities of the accepted events."""
    accepted: list[str | None] = []
    together = threading.Barrier(THREADS)

    def track(number: int) -> None:
        together.wait()
        accepted.extend(usage.track(UUID(int=number), AGENT) for _ in range(EVENTS))

    threads = [threading.Thread(target=track, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(filter(None, accepted))


def connect(usage: UsagePublisher, network: BadNetwork, mode: Mode) -> str:
    """Send an event while the network is good, so that the next command is an XADD; return its identity."""
    identity = usage.track(UUID(int=0), AGENT)
    assert identity
    assert usage.flush()
    network.mode = mode
    return identity


@pytest.mark.parametrize("mode", ["good", "hang", "deaf", "reset", "trickle"])
def test_events_of_many_threads_arrive_when_network_is_good_again(
    mode: Mode, redis_url: str, redis_client: redis.Redis
) -> None:
    with bad_network(redis_url) as network, UsagePublisher(network.url, linger=0) as usage:
        accepted = [connect(usage, network, mode), *track_in_threads(usage)]
        assert len(accepted) == THREADS * EVENTS + 1
        if mode in ("hang", "deaf", "reset"):
            eventually(lambda: usage.stats().holding)
            assert not usage.flush(0)
        network.mode = "good"
        assert usage.flush(60)
        stats = usage.stats()
        assert (stats.accepted, stats.sent, stats.buffered, stats.dropped) == (len(accepted), len(accepted), 0, 0)
    assert sorted(identities(redis_client)) == sorted(accepted)


@pytest.mark.parametrize("mode", ["hang", "deaf", "reset"])
def test_what_is_lost_is_counted_and_told(mode: Mode, redis_url: str, redis_client: redis.Redis) -> None:
    """What arrived without an answer counts as dropped, and is counted by the workers nevertheless: a loss at most."""
    losses: list[EventLoss] = []
    with bad_network(redis_url) as network:
        usage = UsagePublisher(network.url, linger=0, buffer_bytes=400_000, on_error=losses.append)
        accepted = [connect(usage, network, mode), *track_in_threads(usage)]
        eventually(lambda: usage.stats().holding)
        usage.close(0)
        stats = usage.stats()
    assert (stats.sent, stats.buffered, stats.accepted) == (1, 0, len(accepted))
    assert stats.dropped == THREADS * EVENTS == sum(loss.count for loss in losses)
    assert {loss.kind for loss in losses} == {"dropped"}
    arrived = identities(redis_client)
    assert set(arrived) <= set(accepted)
    if mode != "reset":  # then the first of two packs may be in the half that arrives
        assert (len(arrived) > 1) == (mode == "deaf")
