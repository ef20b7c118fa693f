"""Streams with replicas that take over: through Sentinel, and on a Cluster; Celery's messages are elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Self

import redis
from typing_extensions import override

from tests.chaos.streams import DURABLE, MOST_SHARDS, Streams
from tests.helpers import eventually
from tests.redis_topologies import ClusterServers, SentinelServers
from usage_worker.local import EmbeddedValkey

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from tests.chaos.streams import Fault, Note, Undo
    from tests.redis_nodes import RedisNode

CALM_SECONDS = 60.0


class ReplicatedStreams(Streams):
    """Servers of which one at a time is killed or paused; an event counts as sent when a replica has it.

    What a primary took and no replica confirmed may vanish in a failover, and is sent again.
    """

    may_vanish = True
    servers: SentinelServers | ClusterServers

    def __init__(self, folder: Path, random: Random) -> None:
        super().__init__(folder, random)
        self._broker = EmbeddedValkey(folder / "broker", DURABLE)
        self._down: list[RedisNode] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._broker)
            stack.enter_context(self.servers)
            self.broker = stack.enter_context(closing(redis.Redis.from_url(self._broker.url(), socket_timeout=5)))
            self._stack = stack.pop_all()
        return self

    @override
    def settings(self, *, far: bool = False) -> dict[str, str]:
        broker = {"USAGE_BROKER_URL": self._broker.url()}
        return {"REDIS_URL": self.servers.url(), "USAGE_REDIS_REPLICAS": "1", **broker}

    @override
    def client(self, key: str) -> redis.Redis:
        return self.primary(key).connection

    @property
    @override
    def faults(self) -> list[Fault]:
        return [*super().faults, self.fail_over, self.fail_over, self.pause, self.kill_replica, self.restart_broker]

    @override
    def revive(self) -> None:
        for node in list(self._down):
            self._restore(node)

    def fail_over(self, note: Note) -> Undo | None:
        """Kill a primary, and wait until its replica has taken over; the dead one comes back later."""
        if self._down:
            return None
        key = self._some_key()
        dead = self.primary(key)
        note(f"SIGKILL to the primary of {key}")
        self._down.append(dead)
        dead.kill()
        self.await_promotion(key, dead)
        note("its replica has taken over")
        return partial(self._restore, dead)

    def pause(self, note: Note) -> Undo | None:
        """Stop a primary like a hanging machine; after it goes on it learns that another has taken over."""
        if self._down:
            return None
        key = self._some_key()
        paused = self.primary(key)
        note(f"SIGSTOP to the primary of {key}")
        self._down.append(paused)
        paused.pause()
        return partial(self._restore, paused)

    def kill_replica(self, note: Note) -> Undo | None:
        if self._down:
            return None
        dead = self.replica(self.primary(self._some_key()))
        note("SIGKILL to a replica")
        self._down.append(dead)
        dead.kill()
        return partial(self._restore, dead)

    def restart_broker(self, note: Note) -> None:
        note("the broker restarts")
        self._broker.restart()

    @abstractmethod
    def primary(self, key: str) -> RedisNode:
        """Return the server that has a key."""

    @abstractmethod
    def replica(self, primary: RedisNode) -> RedisNode:
        """Return the replica of a primary."""

    @abstractmethod
    def await_promotion(self, key: str, dead: RedisNode) -> None:
        """Wait until another server than the dead one has a key."""

    @abstractmethod
    def await_calm(self) -> None:
        """Wait until each primary has its replica, with all its data."""

    def _restore(self, node: RedisNode) -> None:
        if node in self._down:
            if node.is_running:
                node.resume()
            else:
                node.restart()
            self.await_calm()
            self._down.remove(node)

    def _some_key(self) -> str:
        return f"usage:events:{{{self.random.randrange(MOST_SHARDS)}}}"


class SentinelStreams(ReplicatedStreams):
    """A primary and a replica under three Sentinels."""

    name = "Redis under Sentinels, and a broker of its own"

    def __init__(self, folder: Path, random: Random) -> None:
        super().__init__(folder, random)
        self.servers: SentinelServers = SentinelServers(settings=DURABLE)

    @override
    def primary(self, key: str) -> RedisNode:
        return self.servers.primary

    @override
    def replica(self, primary: RedisNode) -> RedisNode:
        return self.servers.replica

    @override
    def await_promotion(self, key: str, dead: RedisNode) -> None:
        self.servers.await_promotion(dead)

    @override
    def await_calm(self) -> None:
        eventually(lambda: is_replica(self.servers.replica), CALM_SECONDS)


class ClusterStreams(ReplicatedStreams):
    """A Cluster of three primaries with a replica each."""

    name = "Redis Cluster, and a broker of its own"

    def __init__(self, folder: Path, random: Random) -> None:
        super().__init__(folder, random)
        self.servers: ClusterServers = ClusterServers(settings=DURABLE)

    @override
    def primary(self, key: str) -> RedisNode:
        return self.servers.primary_of(key)

    @override
    def replica(self, primary: RedisNode) -> RedisNode:
        return self.servers.replica_of(primary)

    @override
    def await_promotion(self, key: str, dead: RedisNode) -> None:
        self.servers.await_promotion(key, dead)

    @override
    def await_calm(self) -> None:
        eventually(lambda: sum(map(is_replica, self.servers.nodes)) == len(self.servers.nodes) // 2, CALM_SECONDS)


def is_replica(node: RedisNode) -> bool:
    """Return whether a server is a replica that has all data of its primary."""
    return node.replication.get("master_link_status") == "up"
