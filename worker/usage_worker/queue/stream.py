"""The queue: Redis Streams, one for each shard, read by one consumer group.

Any language publishes with one command: `XADD usage:events:{0} * v 1 n 1 events '[{"user_id": …, "agent_id": …}]'`.
Our publisher writes columns instead, version 2: see `events/wire.py`.
Once its events are committed, one script deletes, acknowledges and counts an entry: see `queue/accounting.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from usage_worker.events.columns import COLUMNS, LAST_TIME
from usage_worker.queue.accounting import Accounting
from usage_worker.queue.connection import RedisConnection, unavailable
from usage_worker.queue.consumers import DEAD_SECONDS, sweep_consumers
from usage_worker.queue.holding import reclaim_arguments, reclaim_script
from usage_worker.queue.last_id import CLOCK_SECONDS, id_seconds, last_id
from usage_worker.queue.skipped import return_skipped
from usage_worker.queue.vitals import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import redis

    from usage_worker.errors import StreamUnavailableError
    from usage_worker.queue.accounting import Vanished
    from usage_worker.queue.last_id import LastId
    from usage_worker.queue.server import Concern

GROUP = "usage"
# The events of an entry as an array of objects, and as an object of columns.
OBJECTS, COLUMNAR = b"1", b"2"
VERSIONS = (OBJECTS, COLUMNAR)
"""The versions of an entry's form that we read."""
# The consumer that has the entries which these workers leave to newer ones; those have another, and reclaim them.
WAITING = f"newer than version {COLUMNAR.decode()} with {len(COLUMNS)} columns"
# A prime, so that every bit of a UUID influences its shard, whatever its version.
_SPREAD = 65_521
MAX_DECLARED_DIGITS = 6
_LAST_SECOND = LAST_TIME // 1_000_000


class RawEntry(NamedTuple):
    """A stream entry as it was read."""

    entry_id: str
    fields: Mapping[bytes, bytes]
    deaths: int = 0
    """How many consumers have died while they held it."""

    @property
    def version(self) -> bytes | None:
        """The version of the entry's form; we read those of `VERSIONS`."""
        return self.fields.get(b"v")

    @property
    def key(self) -> UUID | None:
        """The key of the pack that its publisher gave it, None where there is none or it is not a UUID."""
        try:
            return UUID(self.fields[b"id"].decode())
        except (KeyError, ValueError):
            return None

    @property
    def times_are_the_publishers(self) -> bool:
        """Whether the publisher gave the events their times, since the application gave them only a key."""
        return self.fields.get(b"times") == b"publisher"

    @property
    def is_backfill(self) -> bool:
        """Whether its events are accepted as long as the ledger keeps their days, however old they are.

        Not where the publisher gave them their times: the first time of a key is kept for the acceptance window only.
        """
        return self.fields.get(b"backfill") == b"1" and not self.times_are_the_publishers

    @property
    def body(self) -> bytes | None:
        """The events as JSON, None where the entry has none."""
        return self.fields.get(b"events")

    @property
    def ids(self) -> bytes | None:
        """The originals of the ids in the events (`write_ids`), None where the entry has none."""
        return self.fields.get(b"ids")

    @property
    def size(self) -> int:
        """The bytes of what is decoded."""
        return len(self.body or b"") + len(self.ids or b"")

    @property
    def contents(self) -> UUID:
        """A hash of the body, or of all fields where it cannot be read: two entries with it hold the same events."""
        body = self.body if self.version in VERSIONS else None
        content = repr(sorted(self.fields.items())).encode() if body is None else body
        return UUID(bytes=sha256(content).digest()[:16])

    @property
    def declared(self) -> int:
        """The number of events that the entry declares, 1 where it declares none."""
        digits = self.fields.get(b"n", b"1")
        return max(int(digits), 1) if digits.isdigit() and len(digits) <= MAX_DECLARED_DIGITS else 1

    @property
    def added_at(self) -> datetime:
        """The time in the entry's id, when Redis added it; at most the year 9999, since a producer may choose ids."""
        return datetime.fromtimestamp(min(id_seconds(self.entry_id), _LAST_SECOND), UTC)


class Pack(NamedTuple):
    """What a stream entry is made of. `key` distinguishes a pack that was sent twice from two packs.

    `times_are_ours` for events that have a key of the application's and a time of the publisher's, `is_backfill` for
    those that may be older than the acceptance window. `ids` are the originals of their ids, empty where there are
    none.
    """

    version: bytes
    key: UUID
    events: int
    body: bytes
    times_are_ours: bool = False
    is_backfill: bool = False
    ids: bytes = b""

    @classmethod
    def of_objects(cls, key: UUID, events: Sequence[bytes]) -> Pack:
        """Return a pack of events that are JSON already."""
        return cls(OBJECTS, key, len(events), b"[" + b",".join(events) + b"]")

    def fields(self) -> dict[str, bytes | int | str]:
        times = {"times": "publisher"} if self.times_are_ours else {}
        ids = {"ids": self.ids} if self.ids else {}
        backfill = {"backfill": 1} if self.is_backfill else {}
        optional: dict[str, bytes | int | str] = {**times, **backfill, **ids}
        return {"v": self.version, "n": self.events, "id": str(self.key), **optional, "events": self.body}


class Backlog(NamedTuple):
    """The entries of a shard: all of them, the pending ones, and the age of the oldest in seconds.

    `age_known` is false where the id of the oldest entry lies in the future: a producer chose it, and since then Redis
    gives every entry of the shard the same time.
    """

    entries: int
    pending: int
    oldest_seconds: float
    age_known: bool = True


class EventStream:
    """The sharded stream of one Redis; it owns the `connection`, which claims, records and heartbeats share.

    Every method raises StreamUnavailableError: see `RedisConnection.client`.
    """

    def __init__(self, redis_url: str, shards: int, warn: Callable[[Concern], None] | None = None) -> None:
        self.shards = shards
        self.connection = RedisConnection(redis_url, warn)
        self._accounting = Accounting(self.connection)

    def key(self, shard: int) -> str:
        """Return the key of a shard's stream."""
        return f"usage:events:{{{shard}}}"

    def shard_of(self, user_id: UUID) -> int:
        """Return a user's shard: all events of a user are in one stream, so that two workers rarely need one row."""
        return shard_of_number(user_id.int, self.shards)

    def append(self, packs: Iterable[tuple[int, Pack]]) -> None:
        """Add packs to their shards. When it raises, any of them may have arrived: send all of them again."""
        for refusal in self.offer(packs):
            if refusal:
                raise refusal

    def offer(self, packs: Iterable[tuple[int, Pack]]) -> list[StreamUnavailableError | None]:
        """Add packs to their shards; return for each why Redis refused it, None where it is in the stream.

        When it raises, any of them may have arrived: offer all of them again.
        """
        with self.connection.client() as client:
            pipeline = client.pipeline(transaction=False)
            for shard, pack in packs:
                pipeline.xadd(self.key(shard), pack.fields())  # type: ignore[arg-type]
            # The pipeline itself would quote the command in the error, and events with it.
            answers = pipeline.execute(raise_on_error=False)
        return [unavailable(answer) if isinstance(answer, RedisError) else None for answer in answers]

    def read(self, shard: int, consumer: str, count: int, wait: float = 0.0) -> list[RawEntry]:
        """Read up to `count` entries that nobody has read yet; they are pending at this consumer until `done`.

        Where there are none, wait up to `wait` seconds for the first.
        """
        block = int(wait * 1000) or None
        with self.connection.client() as client:
            try:
                reply: Any = client.xreadgroup(GROUP, consumer, {self.key(shard): ">"}, count=count, block=block)
            except ResponseError as error:
                # The second where the stream was deleted while we waited.
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                if self._create_group(client, shard):
                    return self.read(shard, consumer, count)
                # Without a group no entry is pending; which ones two workers have both read, the ledger decides.
                reply = [(None, client.xrange(self.key(shard), count=count))]
        return [RawEntry(entry_id.decode(), fields) for _, entries in reply or [] for entry_id, fields in entries]

    def reclaim(self, shard: int, consumer: str, count: int, idle: float) -> list[RawEntry] | None:
        """Take over entries that have been pending for `idle` seconds, and leave the consumer's mark (`Holding`).

        Returns at most `count` entries, or one that is to be tried alone, and None when nothing is idle. Entries that
        were deleted are no longer pending then.
        """
        (deaths, mark), numbers = reclaim_arguments(shard, consumer, count, idle)
        with self.connection.client() as client:
            reply: Any = client.register_script(reclaim_script())(
                keys=[self.key(shard), deaths, mark], args=[GROUP, consumer, WAITING, *numbers]
            )
        if reply is None:
            return None
        return [RawEntry(i.decode(), dict(zip(it[::2], it[1::2], strict=True)), deaths) for i, it, deaths in reply]

    def leave_waiting(self, shard: int, entry_ids: Sequence[str]) -> None:
        """Leave entries pending for a newer worker, which reclaims them; the workers of `WAITING` never do."""
        with self.connection.client() as client:
            client.xclaim(self.key(shard), GROUP, WAITING, 0, list(entry_ids), justid=True)

    def done(self, shard: int, entry_ids: Sequence[str]) -> None:
        """Delete, acknowledge and count entries whose events are committed."""
        self._accounting.done(self.key(shard), GROUP, entry_ids, shard=shard)

    def vanished(self, shard: int) -> Vanished:
        """Return how many entries left a shard uncounted since its group was made."""
        return self._accounting.vanished(self.key(shard), shard)

    def last_id(self, shard: int) -> LastId:
        """Return the last id of a shard, which may lie in the future."""
        return last_id(self.connection, self.key(shard))

    def sweep_consumers(self, shard: int, idle: float = DEAD_SECONDS) -> int:
        """Remove consumers that read nothing for `idle` seconds and hold no entry; return their number."""
        return sweep_consumers(self.connection, self.key(shard), GROUP, idle)

    def return_skipped(self, shard: int, idle: float = DEAD_SECONDS) -> int:
        """Let workers reclaim the entries that somebody made the group skip; return their number."""
        return return_skipped(self.connection, self.key(shard), GROUP, idle)

    def backlog(self, shard: int) -> Backlog:
        """Count the entries of a shard."""
        key = self.key(shard)
        with self.connection.client() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.xlen(key)
            pipeline.xrange(key, count=1)
            pipeline.time()
            pipeline.xinfo_groups(key)
            length, oldest, now, groups = pipeline.execute(raise_on_error=False)
            if isinstance(length, RedisError):
                raise type(length)(f"{key}: {length}")
        age = seconds_of(now) - id_seconds(oldest[0][0].decode()) if oldest else 0.0
        ours = () if isinstance(groups, RedisError) else (it for it in groups if it["name"] == GROUP.encode())
        pending = sum(group["pending"] for group in ours)
        return Backlog(length, pending, max(age, 0.0), age_known=age > -CLOCK_SECONDS)

    def close(self) -> None:
        self.connection.close()

    def _create_group(self, client: redis.Redis, shard: int) -> bool:
        """Create the group from the first entry on; return False when Redis is too full.

        What was read but not deleted before the group was lost is then delivered again.
        """
        try:
            client.xgroup_create(self.key(shard), GROUP, id="0", mkstream=True)
            self.vanished(shard)  # begins its accounting
        except OutOfMemoryError:
            return False
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        return True


def shard_of_number(user: int, shards: int) -> int:
    """Return the shard of the user with this number: see `EventStream.shard_of`."""
    return user % _SPREAD % shards


def key_of(stream: str, raw: RawEntry) -> UUID:
    """Return an entry's key: its publisher's, so that a pack sent twice is recognised, or one of its id and contents.

    The id alone would not do: it comes again after a failover, and in a second Redis that feeds the same database.
    """
    return raw.key or uuid5(NAMESPACE_URL, f"redis-stream:{stream}/{raw.entry_id}#{raw.contents}")


def former_key(stream: str, raw: RawEntry) -> UUID | None:
    """Return the key that versions before 4.1.0 made for an entry; None where its publisher gave it one."""
    return None if raw.key else uuid5(NAMESPACE_URL, f"redis-stream:{stream}/{raw.entry_id}")


def reused_key(raw_key: UUID, contents: UUID) -> UUID:
    """Return the key of an entry whose own was used before with other contents."""
    return uuid5(raw_key, str(contents))


def newer_version(raw: RawEntry) -> int | None:
    """Return the version of an entry that only a newer worker can read; None for ours, and for what is no version."""
    digits = raw.version or b""
    version = int(digits) if digits.isdigit() and len(digits) <= MAX_DECLARED_DIGITS else 0
    return version if version > int(VERSIONS[-1]) else None
