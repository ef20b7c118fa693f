"""The nodes of a Cluster while threads use what another one learns."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import redis
from redis.exceptions import ClusterDownError
from redis.exceptions import ConnectionError as RedisConnectionError

from usage_worker.queue.cluster_nodes import ClusterNodes
from usage_worker.queue.url import parse_redis_url

A, B, C = "10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"


class Cluster:
    """What its nodes answer to CLUSTER SLOTS, and the time."""

    def __init__(self) -> None:
        self.primaries = [A, B]
        self.asked: list[str] = []
        self.silent: set[str] = set()
        self.now = 1000.0
        self.nodes = ClusterNodes(parse_redis_url(f"redis+cluster://{A}"), {})

    def answer(self, client: redis.Redis) -> list[Any]:
        options = client.connection_pool.connection_kwargs
        name = f"{options['host']}:{options['port']}"
        self.asked.append(name)
        if name in self.silent:
            raise RedisConnectionError(name)
        hosts = [name.partition(":") for name in self.primaries]
        size = 16384 // len(hosts)
        return [[i * size, (i + 1) * size - 1, [host.encode(), int(port)]] for i, (host, _, port) in enumerate(hosts)]

    def change(self, *primaries: str) -> None:
        """Give the slots to others, and let an answer say that something has changed."""
        self.primaries = [*primaries]
        self.nodes.failed(self.primaries[0], redis.exceptions.MovedError("1 10.0.0.1:1"))
        self.now += 1


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()

    def execute(client: redis.Redis, *_: Any) -> list[Any]:
        return cluster.answer(client)

    monkeypatch.setattr(redis.Redis, "execute_command", execute)
    monkeypatch.setattr(time, "monotonic", lambda: cluster.now)
    return cluster


def test_node_that_leaves_during_a_use_is_no_key_error(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = cluster.nodes
    nodes.named(B)
    failures: list[BaseException] = []

    def use() -> None:
        try:
            nodes.named(B)
        except BaseException as error:  # noqa: BLE001 - whatever it is
            failures.append(error)

    def disconnect(*_: Any, **__: Any) -> None:
        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(5)

    monkeypatch.setattr(redis.ConnectionPool, "disconnect", disconnect)
    cluster.change(A, C)
    assert nodes.names() == [A, C]
    assert set(map(type, failures)) == {ClusterDownError}, failures


def test_client_by_former_slots_is_closed_after_the_next_look(cluster: Cluster) -> None:
    nodes = cluster.nodes
    before = nodes._current()
    cluster.change(A, C)
    nodes.names()
    with pytest.MonkeyPatch.context() as patch:  # a thread that read the slots, and goes on only now
        patch.setattr(nodes, "_current", lambda: before)
        assert nodes.named(B).connection_pool.connection_kwargs["port"] == 2
    assert B in nodes._clients
    cluster.change(A, C)
    nodes.names()
    assert B not in nodes._clients


def test_threads_share_one_client(cluster: Cluster) -> None:
    found: list[redis.Redis] = []
    threads = [threading.Thread(target=lambda: found.append(cluster.nodes.named(B))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_failed_node_is_asked_last_for_a_while(cluster: Cluster) -> None:
    nodes = cluster.nodes
    assert nodes.names() == [A, B]
    nodes.failed(A, RedisConnectionError("lost"))
    cluster.silent.add(A)
    assert nodes.names() == [B, A]
    cluster.now += 29
    assert nodes.names() == [B, A]
    assert cluster.asked[-1] == B  # not the one that failed
    cluster.now += 2
    assert nodes.names() == [A, B]


def test_failures_of_nodes_that_left_are_forgotten(cluster: Cluster) -> None:
    cluster.nodes.names()
    cluster.nodes.failed(B, RedisConnectionError("lost"))
    cluster.change(A, C)
    assert cluster.nodes.names() == [A, C]
    assert cluster.nodes._failing == {}
