"""What kind of server REDIS_URL names: which one cannot hold our streams, and what would lose or refuse events."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from redis.exceptions import NoPermissionError, ResponseError

from usage_worker.errors import StreamRefusedError
from usage_worker.queue.replicas import live_replicas
from usage_worker.queue.vitals import memory_share

if TYPE_CHECKING:
    import redis

    from usage_worker.queue.connection import RedisConnection
    from usage_worker.queue.url import Kind

# The first version whose streams count the entries added, and whose scripts a full server executes.
LEAST_VERSION = 7

CLUSTER = "it is a node of a Redis Cluster; write redis+cluster:// in REDIS_URL, and set USAGE_BROKER_URL for Celery"
NO_CLUSTER = "it is not a node of a Redis Cluster; write redis:// in REDIS_URL for a single server"
SENTINEL = "it is a Sentinel; write redis+sentinel:// in REDIS_URL"


class Concern(NamedTuple):
    """Something about the server that threatens events, and what to do about it; `fail` where it loses or refuses."""

    name: Literal["eviction", "persistence", "replica", "loading"]
    state: Literal["warn", "fail"]
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says about itself."""

    product: str
    """`Redis` or `Valkey`."""
    version: str
    cluster: bool
    sentinel: bool
    replica: bool
    loading: bool
    memory_used: float
    """The share of `maxmemory` in use, 0.0 where there is no limit."""
    replicas: int
    """How many replicas have all its data."""
    policy: str
    """What happens when the memory is full, as `noeviction`."""
    append_only: bool
    snapshots: bool | None
    """Whether the server saves snapshots by itself; None where it does not let us ask."""

    @property
    def refusal(self) -> str | None:
        """Why no server of this kind or version can be used, None if it can."""
        if self.sentinel:
            return SENTINEL
        major = self.version.partition(".")[0]
        if major.isdigit() and int(major) < LEAST_VERSION:
            return f"it is {self.product} {self.version}; Redis 7, Valkey 8 or newer is needed"
        return None

    @property
    def concerns(self) -> list[Concern]:
        """What threatens the events on this server, the worst first."""
        found = []
        if self.replica:
            reason = "REDIS_URL names a replica, which takes no events"
            found.append(Concern("replica", "fail", reason, "name the primary in REDIS_URL"))
        if self.loading:
            found.append(Concern("loading", "fail", "Redis is still loading its data", "wait until it has"))
        if self.policy.startswith("allkeys"):
            reason = f"maxmemory-policy is {self.policy}: a full Redis discards events that wait"
            found.append(Concern("eviction", "fail", reason, _NO_EVICTION))
        elif self.policy not in ("noeviction", ""):
            reason = f"maxmemory-policy is {self.policy}: a full Redis discards claims and records of shards"
            found.append(Concern("eviction", "warn", reason, _NO_EVICTION))
        if not self.append_only and self.snapshots is False:
            reason = "Redis keeps nothing on disk: a restart loses the events that wait"
            found.append(Concern("persistence", "warn", reason, "set appendonly yes"))
        return found

    def concerns_as(self, kind: Kind, name: str) -> list[Concern]:
        """Return the concerns about a server by its name; of Sentinels and a Cluster, none is a replica for long."""
        found = [it for it in self.concerns if kind == "server" or it.name != "replica"]
        return [it._replace(reason=f"{name}: {it.reason}") for it in found] if name else found


_NO_EVICTION = "set maxmemory-policy noeviction"


def server_facts(connection: RedisConnection, name: str = "") -> ServerFacts:
    """Ask one of the servers about itself.

    Raises:
        StreamUnavailableError: it does not answer.
        StreamRefusedError: it does not let this user ask.
        UnusableServerError: it cannot be used at all (`refusal`).
    """
    with connection.server(name) as client:
        facts = facts_of(client)
        if facts is None:
            raise StreamRefusedError("this user may not ask the server about itself; grant +info")
        with suppress(NoPermissionError):
            facts = replace(facts, snapshots=bool(client.config_get("save").get("save")))
    return facts


def facts_of(client: redis.Redis) -> ServerFacts | None:
    """Ask a server about itself by INFO alone; return None where it does not let this user ask."""
    try:
        return facts_in(client.info())
    except ResponseError:
        return None


def facts_in(info: dict[str, Any]) -> ServerFacts:
    """Return what INFO says about the server itself; whether it saves snapshots stands in CONFIG only."""
    return ServerFacts(
        product=str(info.get("server_name", "redis")).capitalize(),
        version=str(info.get("valkey_version", info.get("redis_version", ""))),
        cluster=bool(info.get("cluster_enabled")),
        sentinel=info.get("redis_mode", info.get("server_mode")) == "sentinel",
        replica=info.get("role") == "slave",
        loading=bool(info.get("loading")),
        memory_used=memory_share(info),
        replicas=live_replicas(info),
        policy=info.get("maxmemory_policy", ""),
        append_only=bool(info.get("aof_enabled")),
        snapshots=None,
    )
