"""Streams of a primary with a replica, found through three Sentinels."""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.integration.commands import SECRET, Cli
from tests.integration.test_redis_server import refusal
from tests.redis_topologies import SentinelServers
from usage_worker.errors import BrokerUnavailableError, StreamUnavailableError
from usage_worker.publisher import UsagePublisher
from usage_worker.service.broker_server import broker_facts
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.redis_nodes import RedisNode


@pytest.fixture(scope="module")
def servers() -> Iterator[SentinelServers]:
    with SentinelServers() as servers:
        yield servers


@pytest.fixture
def harness(database: str, servers: SentinelServers) -> Iterator[Harness]:
    with closing(Harness(database, servers.url())) as harness:
        yield harness


def is_synchronised(node: RedisNode) -> bool:
    """Return whether a server is a replica that has all data."""
    return node.replication.get("master_link_status") == "up"


def test_publisher_and_workers_follow_the_primary(tmp_path: Path, servers: SentinelServers, harness: Harness) -> None:
    events = harness.traffic(1_500)
    with harness.workers(2), UsagePublisher(harness.redis_url, linger=0) as publisher:
        for number, batch in enumerate((events[:500], events[500:1_000], events[1_000:])):
            for event in batch:
                publisher.add(dict(event))
            harness.record(batch)
            assert publisher.flush(30)
            eventually(harness.settled, 30)
            if number == 0:  # a switch, with workers that wait for entries
                before = servers.primary
                servers.sentinels[0].ask("SENTINEL FAILOVER", servers.master)
                servers.await_promotion(before)
                # Until it is a replica, it takes events, and then drops them.
                eventually(partial(is_synchronised, before), 30)
            elif number == 1:
                servers.await_promotion(servers.kill_primary())
    harness.check()
    cli = Cli(tmp_path, DATABASE_URL=harness.database, REDIS_URL=harness.redis_url)
    assert "Redis memory" in cli.run("status").stdout
    assert cli.run("drain").returncode == 0


def test_urls_of_another_kind_are_refused_with_what_to_write(servers: SentinelServers) -> None:
    sentinel, primary = servers.sentinels[0].address, servers.primary.address
    assert "write redis+sentinel:// in REDIS_URL" in refusal(f"redis://{sentinel}")
    assert "it is not a Sentinel" in refusal(f"sentinel://{primary}")
    assert "it is not a node of a Redis Cluster; write redis://" in refusal(f"redis+cluster://{primary}")
    assert "it is not a node of a Redis Cluster" in refusal(f"redis+cluster://{sentinel}")
    unknown = refusal(servers.url(), master="primary")
    assert "the Sentinels know no primary primary; set USAGE_REDIS_MASTER to mymaster" in unknown


def test_sentinels_and_servers_have_logins_of_their_own(servers: SentinelServers) -> None:
    servers.primary.ask("ACL", "SETUSER", "usage", "on", f">{SECRET}", "~*", "&*", "+@all")
    for sentinel in servers.sentinels:
        sentinel.ask("ACL", "SETUSER", "watcher", "on", f">{SECRET}", "&*", "+@all")
        sentinel.ask("ACL", "SETUSER", "blind", "on", f">{SECRET}", "&*", "+ping")
    url = servers.url().replace("//", f"//usage:{SECRET}@")
    login = f"{url}?sentinel_username=watcher&sentinel_password={SECRET}"
    assert broker_facts(Settings(broker_url=login))
    with UsagePublisher(login, linger=0) as publisher:
        assert publisher.flush(5)
    for wrong in (f"{login}x", login.replace("watcher", "blind")):
        line = refusal(wrong, kind=StreamUnavailableError)
        assert "a Sentinel refuses the login: " in line
        assert line.endswith("; set the parameters sentinel_username and sentinel_password of REDIS_URL")
        with pytest.raises(BrokerUnavailableError, match="a Sentinel refuses the login: ") as refused:
            broker_facts(Settings(broker_url=wrong))
        assert SECRET not in line + str(refused.value)
    line = refusal(url.replace(SECRET, f"{SECRET}x"), kind=StreamUnavailableError)
    assert line.endswith("correct the login in REDIS_URL, user:password@host")
    assert SECRET not in line


def test_check_of_the_broker_asks_a_hanging_sentinel_once() -> None:
    """Each question waits for 5 s."""
    with socket.create_server(("127.0.0.1", 0)) as sentinel:
        host, port = sentinel.getsockname()
        with pytest.raises(BrokerUnavailableError, match="no Sentinel at"):
            broker_facts(Settings(broker_url=f"redis+sentinel://{host}:{port}/0"))
        assert connections_to(sentinel) == 1


def connections_to(server: socket.socket) -> int:
    """Return how many connections a server that accepts none has been asked for."""
    server.setblocking(False)
    number = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            number += 1
    return number
