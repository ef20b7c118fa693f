"""The nodes of a Redis Cluster, and which of them holds which slots.

The driver's own client for a Cluster repeats commands, splits pipelines and looks for the nodes in any order, so that a
node that does not answer costs each look its timeout. Here each node has a plain client, and the map of slots is asked
of the node that answered last.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from redis.connection import ConnectionPool
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ReadOnlyError, RedisError, ResponseError

if TYPE_CHECKING:
    from usage_worker.queue.url import RedisAddress

    Place = tuple[str, int]

# While a Cluster fails over, each attempt would ask again.
_SECONDS_BETWEEN_LOOKS = 0.2
# Of an answer: the node cannot serve the key now, or has not got it.
_MISPLACED = (AskError, ClusterDownError, ReadOnlyError)


class _Slots(NamedTuple):
    """Ranges of slots, ordered: the first slot, the last one, and the primary of each."""

    firsts: list[int]
    lasts: list[int]
    primaries: list[str]

    def primary_of(self, key: str) -> str:
        """Return the name of the primary that holds a key, "" where none does."""
        slot = key_slot(key.encode())
        place = bisect_left(self.lasts, slot)
        return self.primaries[place] if place < len(self.lasts) and self.firsts[place] <= slot else ""


class ClusterNodes:
    """The nodes; `options` are those of a connection to each."""

    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        self._address = address
        self._options = options
        self._clients: dict[str, redis.Redis] = {}
        self._places: dict[str, Place] = dict(map(_named, address.hosts))
        # Those that did not answer lately are asked last.
        self._failing: set[str] = set()
        self._slots: _Slots | None = None
        self._is_stale = True
        self._looked = float("-inf")
        self._looking = threading.Lock()

    def names(self) -> list[str]:
        return sorted(set(self._current().primaries), key=lambda name: (name in self._failing, name))

    def named(self, name: str) -> redis.Redis:
        if name not in self._current().primaries:
            self._is_stale = True
            raise ClusterDownError(f"{name} holds no slots any more" if name else "no node holds the slot of a key")
        return self._client(name)

    def name_of(self, key: str) -> str:
        return self._current().primary_of(key)

    def failed(self, name: str, error: RedisError) -> None:
        if isinstance(error, ResponseError) and not isinstance(error, _MISPLACED):
            return
        self._is_stale = True
        if not isinstance(error, AskError):
            self._failing.add(name)

    def close(self) -> None:
        for client in self._clients.copy().values():
            client.close()

    def _current(self) -> _Slots:
        """Return who holds which slots; ask anew where a node has said that this has changed."""
        slots = self._slots
        if slots and (not self._is_stale or time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS):
            return slots
        # While another thread asks, and a node may keep it waiting, what was known will do for the other nodes.
        if not self._looking.acquire(blocking=slots is None):
            return slots  # type: ignore[return-value]  # it waits for the lock where there are none
        try:
            if self._slots is None or self._is_stale:
                self._slots = self._look()
            return self._slots
        finally:
            self._looking.release()

    def _look(self) -> _Slots:
        """Ask the nodes, one after the other until one knows.

        Raises:
            RedisError: why the first one did not answer, and none of the others did.
        """
        self._looked = time.monotonic()
        failure: RedisError | None = None
        for name in sorted(self._places, key=self._failing.__contains__):
            # Unset before the answer: what another thread finds meanwhile makes it old again.
            self._is_stale = False
            try:
                ranges: Any = self._client(name).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except RedisError as error:
                failure = failure or error
                self._failing.add(name)
                continue
            self._failing.discard(name)
            if ranges:  # a node that has left its Cluster knows none
                return self._learn(name, sorted(ranges))
        self._is_stale = True
        raise failure or ClusterDownError("no node of REDIS_URL knows any slots")

    def _learn(self, asked: str, ranges: list[Any]) -> _Slots:
        """Return what a node has answered, and close the connections to nodes that are none any more."""
        host, _ = self._places[asked]
        found = [[_place(node, host) for node in nodes] for _, _, *nodes in ranges]
        known = dict(map(_named, [*(place for places in found for place in places), *self._address.hosts]))
        self._places = {asked: self._places[asked], **known}
        for name in self._clients.keys() - self._places.keys():
            self._clients.pop(name).close()
        return _Slots(
            [first for first, *_ in ranges],
            [last for _, last, *_ in ranges],
            [_named(primary)[0] for primary, *_ in found],
        )

    def _client(self, name: str) -> redis.Redis:
        if (client := self._clients.get(name)) is None:
            host, port = self._places[name]
            pool = ConnectionPool(self._address.connection_class, **self._options, host=host, port=port)
            # Of two threads, both take the first one's.
            client = self._clients.setdefault(name, redis.Redis.from_pool(pool))
        return client


def _place(node: Any, asked: str) -> Place:
    """Return host and port of a node; one that does not know its own host is reached as the one that was asked."""
    host, port, *_ = node
    return (host.decode() if host else asked), int(port)


def _named(place: Place) -> tuple[str, Place]:
    host, port = place
    return f"{host}:{port}", place
