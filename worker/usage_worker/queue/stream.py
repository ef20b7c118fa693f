"""The queue: Redis Streams, one a shard, read by one consumer group.

Any language publishes with one command: `XADD usage:events:{0} * v 1 n 1 events '[{"user_id": …, "agent_id": …}]'`.
An entry is deleted, then acknowledged, once what it says is committed. In this order a crash in between leaves a
pending entry without a body, which the next reclaim clears away; the other way round it would leave a body that
nobody reads.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from redis.retry import Retry

from usage_worker.errors import StreamUnavailableError
from usage_worker.queue.url import parse_redis_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

GROUP = "usage"
HEARTBEAT_KEY = "usage:heartbeat"
VERSION = b"1"
TIMEOUT_SECONDS = 5.0
# A prime, so that every bit of a UUID has a say in its shard, whatever its version.
_SPREAD = 65_521
CLAIM_SECONDS = 5
# Longer than a worker needs to fail again, so that a noted failure outlasts the flushes that find nothing to read.
FAILURE_SECONDS = 300
MAX_DECLARED_DIGITS = 6
# 9999-12-31T23:59:59Z.
_LAST_SECOND = 253_402_300_799
# Events in one of our own entries, at most.
PACK_EVENTS = 500


class RawEntry(NamedTuple):
    """A stream entry as it was read."""

    entry_id: str
    fields: Mapping[bytes, bytes]

    @property
    def declared(self) -> int:
        """How many events the entry says it holds, 1 where it does not say."""
        digits = self.fields.get(b"n", b"1")
        return max(int(digits), 1) if digits.isdigit() and len(digits) <= MAX_DECLARED_DIGITS else 1

    @property
    def added_at(self) -> datetime:
        """When Redis took it in, as its id says; a producer may have made up one that lies beyond the calendar."""
        return datetime.fromtimestamp(min(_seconds_of(self.entry_id), _LAST_SECOND), UTC)


class Pack(NamedTuple):
    """Events on their way into one stream entry. `key` tells a pack that was sent twice from two packs."""

    key: UUID
    events: Sequence[bytes]

    def fields(self) -> dict[str, bytes | int | str]:
        body = b"[" + b",".join(self.events) + b"]"
        return {"v": VERSION, "n": len(self.events), "id": str(self.key), "events": body}


class Backlog(NamedTuple):
    """What waits in a shard: entries in all, those in a worker's hands, and the age of the oldest in seconds."""

    entries: int
    pending: int
    oldest_seconds: float


class Failure(NamedTuple):
    """What a flush of a shard failed of, and how many seconds ago."""

    error: str
    seconds: float


class EventStream:
    """The sharded stream of one Redis.

    Every method raises StreamUnavailableError when Redis refuses, hangs for 5 s, is full or is not there.
    """

    def __init__(self, redis_url: str, shards: int) -> None:
        self.shards = shards
        # Checked first: the driver's own words for a wrong URL quote it, and it may hold a password.
        parse_redis_url(redis_url)
        # No retries inside the client: the callers retry, and they know what a second attempt means.
        self._redis = redis.Redis.from_url(
            redis_url,
            protocol=2,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    def key(self, shard: int) -> str:
        """The key of a shard; the braces keep it on one slot of a Redis Cluster."""
        return f"usage:events:{{{shard}}}"

    def shard_of(self, user_id: UUID) -> int:
        """The shard of a user: one user's events meet in one stream, so that two workers rarely meet on a row."""
        return user_id.int % _SPREAD % self.shards

    def append(self, packs: Iterable[tuple[int, Pack]]) -> None:
        """Add packs to their shards. When it raises, any of them may have arrived: send all of them again."""
        with _translated():
            pipeline = self._redis.pipeline(transaction=False)
            for shard, pack in packs:
                pipeline.xadd(self.key(shard), pack.fields())  # type: ignore[arg-type]
            # The pipeline itself would quote the command in the error, and events with it.
            refusals = [answer for answer in pipeline.execute(raise_on_error=False) if isinstance(answer, RedisError)]
            if refusals:
                raise refusals[0]

    def read(self, shard: int, consumer: str, count: int, wait: float = 0.0) -> list[RawEntry]:
        """At most `count` entries that nobody has read yet; they are in this consumer's hands until `done`.

        Where there are none, the first one is awaited for `wait` seconds.
        """
        block = int(wait * 1000) or None
        with _translated():
            try:
                reply: Any = self._redis.xreadgroup(GROUP, consumer, {self.key(shard): ">"}, count=count, block=block)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                if self._create_group(shard):
                    return self.read(shard, consumer, count)
                # Entries are nobody's without a group; which ones two workers have both read, the database can tell.
                reply = [(None, self._redis.xrange(self.key(shard), count=count))]
        return [RawEntry(entry_id.decode(), fields) for _, entries in reply or [] for entry_id, fields in entries]

    def reclaim(
        self, shard: int, consumer: str, count: int, idle: float, start: str = "0-0"
    ) -> tuple[str, list[RawEntry]]:
        """Take over entries that lay in some worker's hands for `idle` seconds; begins at `start`.

        Returns where to go on ("0-0" at the end) and the entries. Those without a body are cleared away by Redis ≥ 7,
        and here for 6.2.
        """
        with _translated():
            try:
                reply: Any = self._redis.xautoclaim(
                    self.key(shard), GROUP, consumer, int(idle * 1000), start_id=start, count=count
                )
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                self._create_group(shard)
                return "0-0", []
            cursor, entries = reply[0], reply[1]
            if bodiless := [entry_id for entry_id, fields in entries if fields is None]:
                self._redis.xack(self.key(shard), GROUP, *bodiless)
        return cursor.decode(), [RawEntry(i.decode(), fields) for i, fields in entries if fields is not None]

    def claim(self, shard: int, consumer: str) -> bool:
        """Say that this consumer is at work in the shard, for `CLAIM_SECONDS`; False when another one has said so.

        It spares two workers the wait for each other's rows, and nothing else: both may go on if it is lost.
        """
        key = _claim_key(shard)
        with _translated():
            try:
                if self._redis.set(key, consumer, nx=True, ex=CLAIM_SECONDS):
                    return True
                return self._redis.get(key) == consumer.encode() and bool(self._redis.expire(key, CLAIM_SECONDS))
            except OutOfMemoryError:
                return True

    def unclaim(self, shard: int, consumer: str) -> None:
        """Let another consumer in."""
        with _translated():
            if self._redis.get(_claim_key(shard)) == consumer.encode():
                self._redis.delete(_claim_key(shard))

    def done(self, shard: int, entry_ids: Sequence[str]) -> None:
        """Forget entries whose events are committed. Not in MULTI, which a full Redis refuses."""
        with _translated():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xdel(self.key(shard), *entry_ids)
            pipeline.xack(self.key(shard), GROUP, *entry_ids)
            pipeline.delete(_failure_key(shard))  # here it costs no round trip
            pipeline.execute()

    def note_failure(self, shard: int, error: str) -> None:
        """Note what a flush failed of, until entries are `done` or for `FAILURE_SECONDS`; a full Redis refuses it."""
        with _translated():
            self._redis.set(_failure_key(shard), error.encode(errors="backslashreplace"), ex=FAILURE_SECONDS)

    def last_failure(self, shard: int) -> Failure | None:
        """The failure that was noted last, None where entries were `done` since."""
        key = _failure_key(shard)
        with _translated():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(key)
            pipeline.pttl(key)
            error, left = pipeline.execute()
        # Its age by Redis' own clock: what is gone of the time that it is kept.
        return None if error is None else Failure(error.decode(), max(FAILURE_SECONDS - left / 1000, 0.0))

    def backlog(self, shard: int) -> Backlog:
        """What waits in a shard."""
        key = self.key(shard)
        with _translated():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xlen(key)
            pipeline.xrange(key, count=1)
            pipeline.time()
            pipeline.xinfo_groups(key)
            length, oldest, (seconds, micros), groups = pipeline.execute(raise_on_error=False)
            if isinstance(length, RedisError):
                raise length
        age = seconds + micros / 1e6 - _seconds_of(oldest[0][0].decode()) if oldest else 0.0
        pending = 0 if isinstance(groups, RedisError) else sum(group["pending"] for group in groups)
        return Backlog(length, pending, max(age, 0.0))

    def memory_used(self) -> float:
        """The share of Redis' `maxmemory` in use, 0.0 where there is no limit."""
        with _translated():
            info: Any = self._redis.info("memory")
        return info["used_memory"] / info["maxmemory"] if info.get("maxmemory") else 0.0

    def beat(self) -> None:
        """Leave the time as the trace of a heartbeat."""
        with _translated():
            self._redis.set(HEARTBEAT_KEY, self._now())

    def beat_age(self) -> float | None:
        """Seconds since the last heartbeat by Redis' own clock, or None where there was none."""
        with _translated():
            beat: Any = self._redis.get(HEARTBEAT_KEY)
            return None if beat is None else max(self._now() - float(beat), 0.0)

    def close(self) -> None:
        self._redis.close()

    def _now(self) -> float:
        reply: Any = self._redis.time()
        return float(reply[0] + reply[1] / 1e6)

    def _create_group(self, shard: int) -> bool:
        """From the very first entry: what was read but not deleted before the group was lost comes again.

        False when Redis is too full for it.
        """
        try:
            self._redis.xgroup_create(self.key(shard), GROUP, id="0", mkstream=True)
        except OutOfMemoryError:
            return False
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        return True


def _claim_key(shard: int) -> str:
    return f"usage:flushing:{{{shard}}}"


def _failure_key(shard: int) -> str:
    return f"usage:failure:{{{shard}}}"


def _seconds_of(entry_id: str) -> float:
    """The first half of an id, which is in milliseconds since 1970."""
    return int(entry_id.split("-", maxsplit=1)[0]) / 1000


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OutOfMemoryError as error:
        raise StreamUnavailableError(
            "Redis is full; raise its maxmemory, or let `usage-worker drain` work off the backlog"
        ) from error
    except RedisError as error:
        raise StreamUnavailableError(f"{error}; is REDIS_URL right and the server up?") from error
