"""The record of each shard's flushes: last commit, last success, last error, events of the last minutes, and counters.

`usage-worker status`, `metrics` and `drain` read it. It is in Redis, so that a database that is down does not hide it;
counting does not depend on it.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import StreamUnavailableError
from usage_worker.queue.flush_counters import counters_of
from usage_worker.queue.own_keys import OWN, WHOLE, age_of, answered, whole
from usage_worker.queue.vitals import seconds_of

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection
    from usage_worker.queue.flush_counters import FlushCounters, Increments

# The minutes over which accepted and quarantined events are added up; the present one is not over yet.
MINUTES = 10
# A flush that finds nothing is recorded this often, in seconds: idling should cost little.
_IDLE_SECONDS = 5.0
# A shard that nobody has flushed for a week has no record any more.
_KEPT_SECONDS = 7 * 86_400
# Small and bounded, so a full Redis takes it as well. Times are by Redis' own clock, in seconds.
_SCRIPT = (
    f"#!lua flags=allow-oom\n{OWN}{WHOLE}"
    """
own(KEYS[1], 'hash')
local time = redis.call('TIME')
local now, minute = string.format('%d.%06d', time[1], time[2]), math.floor(time[1] / 60)
local outcome, accepted, quarantined, text, minutes, kept, node = unpack(ARGV)
-- Adds to a counter; where somebody has written something else, it begins again.
local function add(field, number)
    local sum = (whole(redis.call('HGET', KEYS[1], field)) or 0) + number
    redis.call('HSET', KEYS[1], field, sum)
    return sum
end
redis.call('HSET', KEYS[1], outcome, now)
if outcome == 'failed' then
    redis.call('HSET', KEYS[1], 'error', text)
elseif outcome == 'waiting' then
    redis.call('HSET', KEYS[1], 'holders', text)
elseif outcome == 'counted' then
    redis.call('HSET', KEYS[1], 'succeeded', now)
    add('quarantined:' .. minute, quarantined)
    if node ~= '' then add('by ' .. node .. ':' .. minute, accepted) end
    -- The first of a minute deletes the old ones.
    if add('accepted:' .. minute, accepted) == tonumber(accepted) then
        for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
            local old = tonumber(string.match(field, ':(%d+)$'))
            if old and (old <= minute - tonumber(minutes) or old > minute) then redis.call('HDEL', KEYS[1], field) end
        end
    end
end
for i = 8, #ARGV, 2 do add(ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], kept)
"""
)


class FlushRecord(NamedTuple):
    """A shard's flushes; times are seconds ago, None for never.

    `counted_seconds`: since the last commit. `succeeded_seconds`: since the last flush without an error, also one that
    found nothing. `failed_seconds` and `error`: the last flush that failed. `waiting_seconds` and `holders`: the last
    batch of which events wait for rows that others hold. `accepted` and `quarantined` (without those of erased users):
    events of the last `MINUTES` minutes. `per_second`: accepted events, averaged over the last one to two minutes.
    `by_node`: accepted events of the last `MINUTES` minutes by the worker that counted them.
    """

    counted_seconds: float | None
    succeeded_seconds: float | None
    failed_seconds: float | None
    error: str | None
    waiting_seconds: float | None
    holders: str | None
    accepted: int
    quarantined: int
    per_second: float
    by_node: dict[str, int]

    @property
    def is_failing(self) -> bool:
        """Whether the last flush failed."""
        if self.failed_seconds is None:
            return False
        return self.succeeded_seconds is None or self.failed_seconds < self.succeeded_seconds

    def waited_for_rows(self, within: float) -> bool:
        """Return whether events of a batch had to wait for held rows in the last `within` seconds."""
        return self.waiting_seconds is not None and self.waiting_seconds < within


class FlushRecords:
    """The records by shard. Where Redis refuses one, nothing is recorded: counting does not depend on it.

    `node` is the name of the worker that this process belongs to; empty for a process without a worker.
    """

    def __init__(self, connection: RedisConnection, node: str = "") -> None:
        self._connection = connection
        self._node = node.encode(errors="backslashreplace")
        self._succeeded: dict[int, float] = {}
        self._owed: dict[int, Increments] = {}

    def counted(self, shard: int, accepted: int, quarantined: int, increments: Increments | None = None) -> None:
        """Record the commits of a batch: their events, and what they add to the counters."""
        self._record(shard, "counted", accepted, quarantined, increments=increments)
        self._succeeded[shard] = time.monotonic()

    def succeeded(self, shard: int) -> None:
        """Record a flush without an error."""
        if time.monotonic() - self._succeeded.get(shard, -_IDLE_SECONDS) >= _IDLE_SECONDS:
            self._record(shard, "succeeded")
            self._succeeded[shard] = time.monotonic()

    def failed(self, shard: int, error: str, increments: Increments | None = None) -> None:
        """Record the error of a flush, and what it adds to the counters; the next success ends it."""
        self._record(shard, "failed", text=error, increments=increments)
        self._succeeded.pop(shard, None)

    def waiting(self, shard: int, holders: str) -> None:
        """Record that events of a batch wait for rows, and who holds these."""
        self._record(shard, "waiting", text=holders)

    def owe(self, shard: int, increments: Increments) -> None:
        """Add to the counters with the next record of the shard: Redis does not answer now."""
        self._owed.setdefault(shard, Counter()).update(increments)

    def read(self, shard: int) -> tuple[FlushRecord, FlushCounters]:
        """Return the record of a shard, and the counters in it.

        Raises:
            StreamUnavailableError: Redis did not answer.
        """
        now, fields = self._fields(shard)
        counted, succeeded, failed, waiting = (
            age_of(fields.get(name), now) for name in (b"counted", b"succeeded", b"failed", b"waiting")
        )
        error, holders = (_text(fields.get(name)) for name in (b"error", b"holders"))
        minute = int(now) // 60
        lately, last_minutes = range(minute - MINUTES + 1, minute + 1), range(minute - 1, minute + 1)
        accepted, quarantined = (_sum(fields, name, lately) for name in (b"accepted:", b"quarantined:"))
        per_second = _sum(fields, b"accepted:", last_minutes) / (60 + now % 60)
        nodes = _by_node(fields, lately)
        flush = FlushRecord(
            counted, succeeded, failed, error, waiting, holders, accepted, quarantined, per_second, nodes
        )
        return flush, counters_of(fields)

    def _fields(self, shard: int) -> tuple[float, dict[bytes, bytes]]:
        """Return the time by Redis' clock and the fields of a record."""
        with self._connection.client(_key(shard)) as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.time()
            pipeline.hgetall(_key(shard))
            time_of_redis, record = pipeline.execute(raise_on_error=False)
            return seconds_of(answered(time_of_redis, otherwise=None)), answered(record, otherwise={})

    def _record(
        self,
        shard: int,
        outcome: str,
        accepted: int = 0,
        quarantined: int = 0,
        *,
        text: str = "",
        increments: Increments | None = None,
    ) -> None:
        if increments:
            self.owe(shard, increments)
        owed = self._owed.pop(shard, Counter())
        cause = text.encode(errors="backslashreplace")
        arguments: list[str | bytes | int] = [outcome, accepted, quarantined, cause, MINUTES, _KEPT_SECONDS, self._node]
        for field, count in owed.items():
            arguments += (field, count)
        try:
            self._connection.script(_SCRIPT, [_key(shard)], *arguments)
        except StreamUnavailableError:
            self._owed[shard] = owed


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _key(shard: int) -> str:
    return f"usage:flush:{{{shard}}}"


def _by_node(fields: dict[bytes, bytes], minutes: range) -> dict[str, int]:
    nodes = Counter[str]()
    for field, count in fields.items():
        name, _, minute = field.removeprefix(b"by ").rpartition(b":")
        if field.startswith(b"by ") and whole(minute) in minutes:
            nodes[name.decode(errors="replace")] += whole(count)
    return dict(sorted(nodes.items()))


def _sum(fields: dict[bytes, bytes], prefix: bytes, minutes: range) -> int:
    return sum(whole(fields.get(prefix + b"%d" % minute)) for minute in minutes)
