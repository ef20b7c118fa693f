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
_NOT_SERVED = (AskError, ClusterDownError, ReadOnlyError)
# How long a node that failed is asked after the others.
_SECONDS_LAST = 30


class _Slots(NamedTuple):
    """What one node has answered, never changed: a thread that uses it while another asks anew finds it whole."""

    firsts: list[int]
    """The first slot of each range, in order."""
    lasts: list[int]
    primaries: list[str]
    places: dict[str, Place]
    """Of all nodes, the primaries among them."""

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
        # Until when those that failed are asked last.
        self._failing: dict[str, float] = {}
        self._changing = threading.Lock()  # of both
        self._slots = _Slots([], [], [], dict(map(_named, address.hosts)))
        self._is_stale = True
        self._looked = float("-inf")
        self._looking = threading.Lock()

    def names(self) -> list[str]:
        return sorted(set(self._current().primaries), key=lambda name: (self._is_failing(name), name))

    def named(self, name: str) -> redis.Redis:
        slots = self._current()
        if name not in slots.primaries:
            self._is_stale = True
            raise ClusterDownError(f"{name} holds no slots any more" if name else "no node holds the slot of a key")
        return self._client(name, slots.places[name])

    def name_of(self, key: str) -> str:
        return self._current().primary_of(key)

    def failed(self, name: str, error: RedisError) -> None:
        if isinstance(error, ResponseError) and not isinstance(error, _NOT_SERVED):
            return
        self._is_stale = True
        if not isinstance(error, AskError):
            self._note(name, failed=True)

    def close(self) -> None:
        with self._changing:
            for client in self._clients.values():
                client.close()

    def _current(self) -> _Slots:
        """Return who holds which slots; ask anew where a node has said that this has changed."""
        slots = self._slots
        if slots.primaries and (not self._is_stale or time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS):
            return slots
        # While another thread asks, and a node may keep it waiting, what was known will do for the other nodes.
        if not self._looking.acquire(blocking=not slots.primaries):
            return slots
        try:
            if not self._slots.primaries or self._is_stale:
                self._slots = self._look()
                self._forget_others()
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
        places = self._slots.places
        for name in sorted(places, key=self._is_failing):
            # Unset before the answer: what another thread finds meanwhile makes it old again.
            self._is_stale = False
            try:
                ranges: Any = self._client(name, places[name]).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except RedisError as error:
                failure = failure or error
                self._note(name, failed=True)
                continue
            self._note(name, failed=False)
            if ranges:  # a node that has left its Cluster knows none
                return self._slots_of(sorted(ranges), places[name])
        self._is_stale = True
        raise failure or ClusterDownError("no node of REDIS_URL knows any slots")

    def _slots_of(self, ranges: list[Any], asked: Place) -> _Slots:
        """Return what the node at `asked` has answered."""
        found = [[_place(node, asked[0]) for node in nodes] for _, _, *nodes in ranges]
        return _Slots(
            [first for first, *_ in ranges],
            [last for _, last, *_ in ranges],
            [_named(primary)[0] for primary, *_ in found],
            dict(map(_named, [asked, *(place for places in found for place in places), *self._address.hosts])),
        )

    def _forget_others(self) -> None:
        """Close the connections to nodes that have left the Cluster.

        A client that another thread made meanwhile, by the slots before, goes after the next look.
        """
        with self._changing:
            for name in self._clients.keys() - self._slots.places.keys():
                # Those in use end with the command of their thread.
                self._clients.pop(name).connection_pool.disconnect(inuse_connections=False)
            for name in self._failing.keys() - self._slots.places.keys():
                del self._failing[name]

    def _client(self, name: str, place: Place) -> redis.Redis:
        with self._changing:
            if (client := self._clients.get(name)) is None:
                host, port = place
                pool = ConnectionPool(self._address.connection_class, **self._options, host=host, port=port)
                client = self._clients[name] = redis.Redis.from_pool(pool)
            return client

    def _note(self, name: str, *, failed: bool) -> None:
        with self._changing:
            if failed:
                self._failing[name] = time.monotonic() + _SECONDS_LAST
            else:
                self._failing.pop(name, None)

    def _is_failing(self, name: str) -> bool:
        return time.monotonic() < self._failing.get(name, 0)


def _place(node: Any, asked: str) -> Place:
    """Return host and port of a node; one that does not know its own host is reached as the one that was asked."""
    host, port, *_ = node
    return (host.decode() if host else asked), int(port)


def _named(place: Place) -> tuple[str, Place]:
    host, port = place
    return f"{host}:{port}", place
