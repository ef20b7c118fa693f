"""The records of the processes: every worker and beat writes one about itself, so that `status` sees who is alive.

A record costs up to three small scripts every 5 s, also on a full Redis, on which no worker can answer a ping.
"""

from __future__ import annotations

import json
import math
import time
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from usage_worker.errors import StreamUnavailableError
from usage_worker.queue.own_keys import AHEAD_SECONDS, OWN, age_of, whole
from usage_worker.queue.vitals import seconds_of
from usage_worker.settings import MAX_SHARDS

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

RECORD_SECONDS = 5.0
# Three records are missing: the process is gone, stopped, or cut off from Redis.
ALIVE_SECONDS = 3 * RECORD_SECONDS
# Until then, `status` says when a process that is gone was last seen.
_KEPT_SECONDS = 3600
PROCESSES_KEY = "usage:processes"
_SHARDS_KEY = "usage:shards"
_NAMESPACE_KEY = "usage:id_namespace"
# Times are by Redis' own clock, in seconds. Small and bounded, so a full Redis takes it as well.
_SCRIPT = (
    f"#!lua flags=allow-oom\n{OWN}"
    """
own(KEYS[1], 'hash')
local now = redis.call('TIME')[1]
local records = redis.call('HGETALL', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
for i = 1, #records, 2 do
    local at = tonumber(string.match(records[i + 1], '^%d+'))
    if records[i] ~= ARGV[1] and (not at or at < now - tonumber(ARGV[3]) or at > now + tonumber(ARGV[4])) then
        redis.call('HDEL', KEYS[1], records[i])
    end
end
return {now, records}
"""
)
_KEEP = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], ARGV[1])"


class Process(NamedTuple):
    """What a process says about itself.

    `kind` is "worker" or "beat"; `roles` are "counting" and "maintenance", by the queues that it takes from; `shards`
    is its number of shards, `namespace` that of its ids, and both are None for beat; `uptime` is in seconds. `host` is
    its machine and process number, `life` what no other process has. `twin` is the host of another process that writes
    records of the same name, empty where there is none.
    """

    kind: str
    roles: list[str]
    queues: list[str]
    shards: int | None
    version: str
    uptime: float = 0.0
    namespace: str | None = None
    host: str = ""
    life: str = ""
    twin: str = ""


class ProcessRecord(NamedTuple):
    """The last record of a process, `seconds` ago by Redis' clock; its own was `clock_ahead` seconds ahead of that."""

    name: str
    process: Process
    seconds: float
    clock_ahead: float

    @property
    def is_alive(self) -> bool:
        """Whether the record is recent."""
        return self.seconds < ALIVE_SECONDS


class Processes:
    """The records of all processes."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._life = token_hex(8)
        self._twin: str | None = None

    def record(self, name: str, process: Process) -> None:
        """Write the record of this process; for publishers also a worker's namespace, and the number of shards.

        That number is the greatest of the living workers: while they are restarted with another one, it does not
        alternate.

        Raises:
            StreamUnavailableError: Redis did not take it.
        """
        process = process._replace(life=self._life, twin=self._twin or "")
        text = json.dumps(process._asdict() | {"clock": time.time()})
        now, before = self._connection.script(_SCRIPT, [PROCESSES_KEY], name, text, _KEPT_SECONDS, int(AHEAD_SECONDS))
        others = _parsed(dict(zip(before[::2], before[1::2], strict=True)), float(now))
        self._twin = self._twin_in(others, name)
        # Each by itself: on a Cluster, another node may hold it.
        if process.shards is not None:
            living = (it.process.shards for it in others if it.is_alive and it.name != name)
            self._connection.script(_KEEP, [_SHARDS_KEY], max([process.shards, *(it or 0 for it in living)]))
        if process.namespace:
            self._connection.script(_KEEP, [_NAMESPACE_KEY], process.namespace)

    def read(self) -> list[ProcessRecord]:
        """Return the records of the last hour, by name.

        Raises:
            StreamUnavailableError: Redis did not answer.
        """
        with self._connection.client(PROCESSES_KEY) as client:
            now = seconds_of(client.time())
            records: Any = client.hgetall(PROCESSES_KEY)
        return _parsed(records, now)

    def _twin_in(self, records: list[ProcessRecord], name: str) -> str:
        """Return who has written the record of this name since we did; a former process of the name did so before."""
        other = next((it.process for it in records if it.name == name), None)
        is_first = self._twin is None
        return "" if is_first or other is None or other.life == self._life else other.host or "another host"


def shards_of_workers(connection: RedisConnection) -> int | None:
    """Return the workers' number of shards, None where it is not known or may not be read."""
    shards = whole(_value(connection, _SHARDS_KEY))
    return shards if 0 < shards <= MAX_SHARDS else None


def namespace_of_workers(connection: RedisConnection) -> UUID | None:
    """Return the namespace of the workers' ids, None where it is not known or may not be read."""
    try:
        return UUID(_value(connection, _NAMESPACE_KEY).decode())
    except ValueError:
        return None


def _value(connection: RedisConnection, key: str) -> bytes:
    try:
        with connection.client(key) as client:
            value: Any = client.get(key)
    except StreamUnavailableError:
        return b""
    return value or b""


def _parsed(records: dict[bytes, bytes], now: float) -> list[ProcessRecord]:
    parsed = (_parse(name.decode(errors="replace"), text, now) for name, text in records.items())
    return sorted(record for record in parsed if record)


def _parse(name: str, text: bytes, now: float) -> ProcessRecord | None:
    """Return a record, None for what another program has written."""
    at, _, body = text.partition(b" ")
    try:
        fields = json.loads(body)
        # A newer version may say more, an older one less.
        process = Process(**{field: fields[field] for field in Process._fields if field in fields})
        seconds, clock = age_of(at, now), float(fields["clock"])
        if seconds is None or not _is_ours(process) or not math.isfinite(clock + process.uptime):
            return None
        return ProcessRecord(name, process, seconds, clock - float(at))
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None


def _is_ours(process: Process) -> bool:
    """Return whether the fields have our types and bounds."""
    lists = isinstance(process.roles, list) and isinstance(process.queues, list)
    own = (process.kind, process.version, process.namespace or "", process.host, process.life, process.twin)
    texts = (*own, *process.roles, *process.queues)
    shards = process.shards is None or process.shards in range(1, MAX_SHARDS + 1)
    return lists and shards and all(isinstance(text, str) for text in texts) and process.uptime >= 0
