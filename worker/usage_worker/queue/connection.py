"""The connections to Redis, and the one place where the driver's errors become ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    ClusterError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from usage_worker.errors import KeyTakenError, StreamRefusedError, StreamUnavailableError, UnusableServerError
from usage_worker.printable import printable
from usage_worker.queue.last_id import WAY_OUT
from usage_worker.queue.own_keys import is_wrong_type
from usage_worker.queue.sentinel_master import REFUSED_LOGIN
from usage_worker.queue.server import CLUSTER, NO_CLUSTER, facts_of
from usage_worker.queue.servers import servers_of
from usage_worker.queue.url import parse_redis_url
from usage_worker.settings import DEFAULT_MASTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import redis

    from usage_worker.queue.server import Concern
    from usage_worker.queue.url import Kind
    from usage_worker.settings import PublisherSettings

_OF_A_CLUSTER = (AskError, ClusterError, ClusterCrossSlotError)
# After these, another server may answer under the same name.
_OF_A_FAILOVER = (RedisConnectionError, RedisTimeoutError, ReadOnlyError)
# Of the answer to CLUSTER SLOTS of a server, or of a Sentinel.
_OF_NO_CLUSTER = ("cluster support disabled", "unknown command 'CLUSTER'")

# What to do about a refused command.
GRANT_USER = 'grant what docs/operations.md lists for "Users" to the user of REDIS_URL'
# What to do about others, by a part of the driver's message.
_REMEDIES = (
    ("last possible ID", f"a producer chose the last possible id, so that a shard takes no entry any more; {WAY_OUT}"),
    ("replicas have the entries", "start the others, or lower USAGE_REDIS_REPLICAS; the events are sent again"),
    ("NOREPLICAS", "start the replicas that its min-replicas-to-write asks for"),
    ("read only replica", "name the primary in REDIS_URL"),
    ("loading the dataset", "wait until it has loaded its data"),
    (REFUSED_LOGIN, "set the parameters sentinel_username and sentinel_password of REDIS_URL"),
    ("Authentication required", "write the login in REDIS_URL as user:password@host"),
    ("invalid username-password", "correct the login in REDIS_URL, user:password@host"),
    ("certificate is not valid for", "name the host in REDIS_URL as its certificate does"),
    ("certificate verify failed", "name its authority in REDIS_URL: rediss://host?ssl_ca_certs=/path/ca.pem"),
    ("No such file", "does the socket or the certificate that REDIS_URL names exist, and is the server up?"),
    ("", "is REDIS_URL right and the server up?"),
)


class RedisConnection:
    """The connections of one process, opened at first use (never before a fork).

    Args:
        redis_url: the server, its Sentinels, or nodes of its Cluster.
        warn: called once with each threat to events on a server.
        master: the name that Sentinels have for the server with the streams.
    """

    def __init__(
        self, redis_url: str, warn: Callable[[Concern], None] | None = None, *, master: str = DEFAULT_MASTER
    ) -> None:
        address = parse_redis_url(redis_url)
        self.kind = address.kind
        self._servers = servers_of(address, master)
        self._warn = warn
        self._accepted: set[str] = set()
        self._warned: set[Concern] = set()

    @classmethod
    def of(cls, settings: PublisherSettings, warn: Callable[[Concern], None] | None = None) -> RedisConnection:
        """Return the connection to the servers of the settings."""
        return cls(settings.redis_url, warn, master=settings.redis_master)

    def client(self, key: str) -> AbstractContextManager[redis.Redis]:
        """Yield the driver's client of the server that holds this key, and translate what it raises.

        On a Cluster, its commands, pipelines and scripts may only use keys of the same slot; ours of a shard are.

        Raises:
            StreamUnavailableError: Redis refused, did not answer for 5 s, is full or cannot be reached.
            StreamRefusedError: this user may not do it.
            KeyTakenError: a key holds something of another type than ours.
            UnusableServerError: it is of a kind or a version that we cannot use, or REDIS_URL cannot work.
        """
        return self._using(lambda: self._servers.name_of(key))

    def script(self, text: str, keys: Sequence[str], *arguments: str | bytes | float) -> Any:
        """Run a Lua script on the server of its keys, which are of one slot; return its reply. Raises like `client`."""
        with self.client(keys[0]) as client:
            return client.register_script(text)(keys, arguments)

    def server(self, name: str) -> AbstractContextManager[redis.Redis]:
        """Yield the client of one of `servers`, as `client` does."""
        return self._using(lambda: name)

    def servers(self) -> list[str]:
        """Return the names of all servers with keys: host and port of a Cluster's primaries, "" for an only one.

        Those that failed lately come last: one that does not answer keeps its caller waiting for 5 s.

        Raises:
            StreamUnavailableError: no node of a Cluster answers.
        """
        try:
            return self._servers.names()
        except RedisError as error:
            raise self.refusal("", error) from error

    def by_server(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """Return the places of the keys that each of the `servers` holds; of keys that none holds, under no name.

        Raises:
            StreamUnavailableError: no node of a Cluster answers.
        """
        if self.kind != "cluster":
            return {"": [*range(len(keys))]}
        groups: dict[str, list[int]] = {name: [] for name in [*self.servers(), ""]}
        for place, key in enumerate(keys):
            groups.setdefault(self._servers.name_of(key), []).append(place)
        return {name: places for name, places in groups.items() if places}

    def refusal(self, name: str, error: RedisError) -> StreamUnavailableError:
        """Translate an error of the driver, or of one command in a pipeline, by a server; "" where none was found."""
        self._servers.failed(name, error)
        if isinstance(error, _OF_A_FAILOVER):
            self._accepted.discard(name)
        return unavailable(error, self.kind)

    def close(self) -> None:
        self._servers.close()

    @contextmanager
    def _using(self, find: Callable[[], str]) -> Iterator[redis.Redis]:
        """Yield the client of the server whose name `find` returns."""
        name = ""
        try:
            name = find()
            client = self._servers.named(name)
            if name not in self._accepted:
                self._accept(name, client)
            yield client
        except RedisError as error:
            raise self.refusal(name, error) from error

    def _accept(self, name: str, client: redis.Redis) -> None:
        """Ask a server what it is, where it lets us: at first, and after its connection was lost.

        Raises:
            UnusableServerError: it is of a kind or a version that we cannot use, or REDIS_URL cannot work.
        """
        try:
            facts = facts_of(client)
        except (TypeError, ValueError, ArithmeticError) as error:  # of a value in the URL that only a connection uses
            raise UnusableServerError(
                f"the driver cannot connect with this REDIS_URL: {printable(str(error))}"
            ) from None
        if facts and facts.cluster and self.kind != "cluster":
            raise UnusableServerError(CLUSTER)
        if facts and facts.refusal:
            raise UnusableServerError(facts.refusal)
        self._accepted.add(name)
        if facts and self._warn:
            for concern in facts.concerns_as(self.kind, name):
                if concern not in self._warned:
                    self._warned.add(concern)
                    self._warn(concern)


def unavailable(error: RedisError, kind: Kind) -> StreamUnavailableError:
    """Translate an error of the driver; `kind` is what REDIS_URL names."""
    if unusable := _unusable(error, kind):
        return UnusableServerError(unusable)
    if isinstance(error, OutOfMemoryError):
        remedy = "raise its maxmemory, or let `usage-worker drain` work off the backlog"
        return StreamUnavailableError("Redis is full", remedy)
    text = str(error)
    if is_wrong_type(error):
        return KeyTakenError(text, "find the program that writes keys `usage:…`, then rename or delete the key")
    if isinstance(error, NoPermissionError):
        return StreamRefusedError(text, GRANT_USER)
    if isinstance(error, AskError | TryAgainError):
        text, remedy = "a slot is moving to another node of the Cluster", "the next attempt asks where it is"
    elif isinstance(error, ClusterDownError):
        remedy = "`CLUSTER NODES` shows which nodes are down"
    else:
        remedy = next(remedy for part, remedy in _REMEDIES if part in text)
    return StreamUnavailableError(text, remedy)


def _unusable(error: RedisError, kind: Kind) -> str | None:
    """Return why the server is of another kind than REDIS_URL says, None if it is not."""
    if kind == "cluster":
        return NO_CLUSTER if any(part in str(error) for part in _OF_NO_CLUSTER) else None
    is_cluster = isinstance(error, _OF_A_CLUSTER) and not isinstance(error, MasterDownError)
    return CLUSTER if is_cluster else None
