"""Several Redis servers of one test on this machine: a primary and a replica under Sentinels, or a Cluster.

Both are context managers, start within seconds, and stop all their processes also after a failure. Their servers have
the defaults of the embedded one: an append-only file that is synced every second.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from redis.crc import key_slot
from typing_extensions import override

from tests.helpers import eventually, free_port
from tests.redis_nodes import HOST, RedisNode, Sentinel
from usage_worker.local.account import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SLOTS = 16_384
PATIENCE = 30.0


class _Servers:
    """Servers in a folder of their own, which exists while they do."""

    nodes: list[RedisNode]

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            self._start(resources.enter_context(temporary_folder()), resources)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @abstractmethod
    def url(self) -> str:
        """Return REDIS_URL."""

    def restart(self, node: RedisNode) -> None:
        """Start a killed server again, and wait until it is a replica that has all data."""
        node.restart()
        eventually(lambda: not node.is_primary and node.replication["master_link_status"] == "up", PATIENCE)

    @abstractmethod
    def _start(self, folder: Path, resources: ExitStack) -> None: ...


class SentinelServers(_Servers):
    """A primary, a replica, and three Sentinels, which promote the replica when the primary is gone for `down_after`.

    Args:
        down_after: seconds.
        settings: those of the data servers, such as `{"min-replicas-to-write": "1"}`.
    """

    master = "mymaster"

    def __init__(self, down_after: float = 0.5, settings: Mapping[str, str] | None = None) -> None:
        self._down_after, self._settings = down_after, settings

    @override
    def url(self, db: int = 0) -> str:
        """Return REDIS_URL; the master's name is the default of USAGE_REDIS_MASTER."""
        return f"redis+sentinel://{','.join(it.address for it in self.sentinels)}/{db}"

    @property
    def primary(self) -> RedisNode:
        """The server that a majority of the Sentinels calls the primary."""
        return _found(self._agreed)

    @property
    def replica(self) -> RedisNode:
        """The other one."""
        primary = self.primary
        return next(node for node in self.nodes if node is not primary)

    def kill_primary(self) -> RedisNode:
        """Kill the primary by SIGKILL, and return it."""
        primary = self.primary
        primary.kill()
        return primary

    def await_promotion(self, dead: RedisNode) -> RedisNode:
        """Wait until another server than this one is the primary, and return it."""
        return _found(lambda: self._promoted(dead))

    def _promoted(self, dead: RedisNode) -> RedisNode | None:
        primary = self._agreed()
        return primary if primary and primary is not dead and primary.is_primary else None

    def _agreed(self) -> RedisNode | None:
        named = [sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", self.master) for sentinel in self.sentinels]
        for node in self.nodes:
            if sum(bool(it) and int(it[1]) == node.port for it in named) * 2 > len(named):
                return node
        return None

    @override
    def _start(self, folder: Path, resources: ExitStack) -> None:
        self.nodes = [RedisNode(folder / f"data-{number}", self._settings) for number in range(2)]
        self.sentinels = [Sentinel(folder / f"sentinel-{number}") for number in range(3)]
        for node in self.nodes:
            resources.enter_context(node)
        primary, replica = self.nodes
        replica.connection.replicaof(HOST, primary.port)
        eventually(lambda: replica.replication["master_link_status"] == "up", PATIENCE)
        for sentinel in self.sentinels:
            sentinel.configuration = self._configuration(sentinel)
            resources.enter_context(sentinel)
            # How often they ask each other; after four times that, a primary that came back becomes a replica.
            sentinel.ask("SENTINEL DEBUG", "PUBLISH-PERIOD", 250, "INFO-PERIOD", 500)
        eventually(self._is_ready, PATIENCE)

    def _configuration(self, sentinel: Sentinel) -> list[str]:
        primary, replica = self.nodes
        return [
            f"sentinel myid {sentinel.own_id}",
            f"sentinel monitor {self.master} {HOST} {primary.port} 2",
            f"sentinel down-after-milliseconds {self.master} {self._down_after * 1000:.0f}",
            f"sentinel failover-timeout {self.master} 5000",
            f"sentinel known-replica {self.master} {HOST} {replica.port}",
            *(
                f"sentinel known-sentinel {self.master} {HOST} {it.port} {it.own_id}"
                for it in self.sentinels
                if it is not sentinel
            ),
        ]

    def _is_ready(self) -> bool:
        """Return whether each Sentinel has met the others, and knows that the replica can take over."""
        for sentinel in self.sentinels:
            state = sentinel.ask("SENTINEL MASTER", self.master)
            replicas = sentinel.ask("SENTINEL SLAVES", self.master)
            if state["num-other-sentinels"] != 2 or not any(it.get("master-link-status") == "ok" for it in replicas):
                return False
        return True


class ClusterServers(_Servers):
    """Three primaries with a replica each.

    Args:
        node_timeout: seconds after which a node counts as failed.
        settings: those of the nodes.
    """

    def __init__(self, node_timeout: float = 1.0, settings: Mapping[str, str] | None = None) -> None:
        cluster = {"cluster-enabled": "yes", "cluster-node-timeout": f"{node_timeout * 1000:.0f}"}
        self._settings = {**cluster, **(settings or {})}

    @override
    def url(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    @property
    def primaries(self) -> list[RedisNode]:
        """The nodes with slots that answer."""
        return [node for node in self.nodes if node.answers and node.is_primary]

    def primary_of(self, key: str) -> RedisNode:
        """Return the primary of a key's slot, as a majority of the nodes that answer sees it."""
        return _found(lambda: self._agreed(key_slot(key.encode())))

    def replica_of(self, primary: RedisNode) -> RedisNode:
        """Return the replica of a primary."""
        port = primary.port
        alive = [node for node in self.nodes if node.is_running and node is not primary]
        return next(node for node in alive if node.replication.get("master_port") == port)

    def kill_primary(self, key: str) -> RedisNode:
        """Kill the primary of a key's slot by SIGKILL, and return it."""
        primary = self.primary_of(key)
        primary.kill()
        return primary

    def await_promotion(self, key: str, dead: RedisNode) -> RedisNode:
        """Wait until all nodes say that another than this one serves a key's slot and the Cluster is well; return it.

        A node that has not heard of it yet would send whoever asks it to the one before, for one attempt.
        """
        return _found(lambda: self._promoted(key_slot(key.encode()), dead))

    def _promoted(self, slot: int, dead: RedisNode) -> RedisNode | None:
        owners = set(self._owners(slot))
        primary = self._agreed(slot) if len(owners) == 1 else None
        return primary if primary and primary is not dead and self._is_well() else None

    def _agreed(self, slot: int) -> RedisNode | None:
        owners = self._owners(slot)
        most = max(set(owners), key=owners.count)
        return next((it for it in self.nodes if it.port == most), None) if owners.count(most) > 2 else None

    def _owners(self, slot: int) -> list[int]:
        """Return the port of a slot's primary by each node that answers."""
        return [self._owner(node, slot) for node in self.nodes if node.answers]

    def _owner(self, node: RedisNode, slot: int) -> int:
        return next((primary[1] for first, last, primary, *_ in self._slots(node) if first <= slot <= last), 0)

    def _slots(self, node: RedisNode) -> list[Any]:
        """Return what a node knows: the first and the last of some slots, their primary and its replicas."""
        slots: list[Any] = node.ask("CLUSTER SLOTS")
        return slots

    def _is_well(self) -> bool:
        alive = [node for node in self.nodes if node.answers]
        return all(node.connection.cluster("INFO")["cluster_state"] == "ok" for node in alive)

    @override
    def _start(self, folder: Path, resources: ExitStack) -> None:
        self.nodes = [RedisNode(folder / f"node-{number}", self._nodes_settings()) for number in range(6)]
        for number, node in enumerate(self.nodes, 1):
            resources.enter_context(node)
            node.ask("CLUSTER SET-CONFIG-EPOCH", number)
        for node in self.nodes:  # each by each: gossip alone takes seconds
            for other in self.nodes:
                node.ask("CLUSTER MEET", HOST, other.port, other.settings["cluster-port"])
        eventually(lambda: all(len(self._known(node)) == 6 for node in self.nodes), PATIENCE)
        bounds = [SLOTS * third // 3 for third in range(4)]
        for number, primary in enumerate(self.nodes[:3]):
            primary.ask("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            own_id = primary.ask("CLUSTER MYID")
            replica.ask("CLUSTER REPLICATE", own_id)
        eventually(self._is_ready, PATIENCE)

    def _nodes_settings(self) -> dict[str, str]:
        return {**self._settings, "cluster-port": str(free_port())}

    def _known(self, node: RedisNode) -> list[str]:
        """Return the nodes that one has met."""
        known: dict[str, dict[str, Any]] = node.ask("CLUSTER NODES")
        return [address for address, it in known.items() if it["connected"] and "handshake" not in it["flags"]]

    def _is_ready(self) -> bool:
        """Return whether all nodes see all slots and all replicas, which have their data."""
        links = [node.replication.get("master_link_status") for node in self.nodes[3:]]
        seen = [sum(len(replicas) for _, _, _, *replicas in self._slots(node)) for node in self.nodes]
        return links == ["up"] * 3 and seen == [3] * 6 and self._is_well()


def _found(look: Callable[[], RedisNode | None]) -> RedisNode:
    node = eventually(look, PATIENCE)
    assert node
    return node
