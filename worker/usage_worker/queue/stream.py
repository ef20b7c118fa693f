"""The queue: Redis Streams, one for each shard, read by one consumer group.

Any language publishes with one command: `XADD usage:events:{0} * v 1 n 1 events '[{"user_id": …, "agent_id": …}]'`.
Our publisher writes columns instead, version 2: see `events/wire.py`.
Once its events are committed, one script deletes, acknowledges and counts an entry: see `queue/accounting.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from usage_worker.errors import StreamRefusedError, StreamUnavailableError
from usage_worker.events.columns import COLUMNS, NAMES
from usage_worker.queue.accounting import Accounting
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.consumers import DEAD_SECONDS, sweep_consumers
from usage_worker.queue.entry import COLUMNAR, RawEntry
from usage_worker.queue.entry_spans import entry_spans
from usage_worker.queue.holding import reclaim_arguments, reclaim_script
from usage_worker.queue.last_id import CLOCK_SECONDS, id_seconds, last_id
from usage_worker.queue.replicas import Replicas, TooFewReplicasError
from usage_worker.queue.skipped import return_skipped
from usage_worker.queue.vitals import seconds_of
from usage_worker.settings import DEFAULT_MASTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

    import redis

    from usage_worker.events.columns import Row
    from usage_worker.queue.accounting import Vanished
    from usage_worker.queue.entry import Pack
    from usage_worker.queue.last_id import LastId
    from usage_worker.queue.server import Concern
    from usage_worker.settings import PublisherSettings

GROUP = "usage"
# The consumer that has the entries which these workers leave to newer ones; those have another, and reclaim them.
WAITING = f"newer than version {COLUMNAR.decode()} with {len(COLUMNS)} columns"
# A prime, so that every bit of a UUID influences its shard, whatever its version.
_SPREAD = 65_521
_USER_ID = NAMES.index("user_id")


class Backlog(NamedTuple):
    """The entries of a shard: all of them, the pending ones, and the age of the oldest in seconds.

    `age_known` is false where the id of the oldest entry lies in the future: a producer chose it, and since then Redis
    gives every entry of the shard the same time. `oldest_id` is empty where there is no entry; `read_id` is that of the
    last entry that a worker has read, or 0-0.
    """

    entries: int
    pending: int
    oldest_seconds: float
    age_known: bool = True
    oldest_id: str = ""
    read_id: str = "0-0"


class EventStream:
    """The sharded stream of one Redis or Cluster; it owns the `connection`, which claims, records and heartbeats share.

    Every method raises StreamUnavailableError: see `RedisConnection.client`.
    """

    def __init__(
        self,
        redis_url: str,
        shards: int,
        warn: Callable[[Concern], None] | None = None,
        *,
        master: str = DEFAULT_MASTER,
        replicas: int = 0,
    ) -> None:
        self.shards = shards
        self._replicas = Replicas(replicas)
        self.connection = RedisConnection(redis_url, warn, master=master)
        self._accounting = Accounting(self.connection, GROUP)

    @classmethod
    def of(cls, settings: PublisherSettings, warn: Callable[[Concern], None] | None = None) -> EventStream:
        """Return the stream of the settings."""
        master, replicas = settings.redis_master, settings.redis_replicas
        return cls(settings.redis_url, settings.stream_shards, warn, master=master, replicas=replicas)

    def key(self, shard: int) -> str:
        """Return the key of a shard's stream."""
        return f"usage:events:{{{shard}}}"

    def shard_of(self, user_id: UUID) -> int:
        """Return a user's shard: all events of a user are in one stream, so that two workers rarely need one row."""
        return shard_of_number(user_id.int, self.shards)

    def each(self, act: Callable[[int], object]) -> None:
        """Call a function with each shard.

        Where a node of a Cluster does not answer, or Redis refuses a command, go on with the others first.

        Raises:
            StreamUnavailableError: the first one that the function has raised.
        """
        failure: StreamUnavailableError | None = None
        for shard in range(self.shards):
            try:
                act(shard)
            except StreamUnavailableError as error:
                if self.connection.kind != "cluster" and not isinstance(error, StreamRefusedError):
                    raise
                failure = failure or error
        if failure:
            raise failure

    def append(self, packs: Iterable[tuple[int, Pack]]) -> None:
        """Add packs to their shards. When it raises, any of them may have arrived: send all of them again."""
        for refusal in self.offer(packs):
            if refusal:
                raise refusal

    def offer(
        self, packs: Iterable[tuple[int, Pack]], look: Callable[[str], None] | None = None
    ) -> list[StreamUnavailableError | None]:
        """Add packs to their shards; return for each why Redis refused it, None where it is in the stream.

        When it raises, any of them may have arrived, where the error `is_uncertain`: offer all of them again. On a
        Cluster, a node that is not available refuses its packs alone in that way.

        Args:
            packs: the packs with their shards.
            look: is called with the name of each server before its packs are sent, and raises StreamUnavailableError
                where they must not be.
        """
        listed = [(shard, self.key(shard), pack) for shard, pack in packs]
        refusals: list[StreamUnavailableError | None] = [None] * len(listed)
        for server, places in self.connection.by_server([key for _, key, _ in listed]).items():
            try:
                if look:
                    look(server)
                answers = self._add(server, [listed[place] for place in places])
            except StreamUnavailableError as error:
                if self.connection.kind != "cluster":
                    raise
                answers = [error] * len(places)
            for place, answer in zip(places, answers, strict=True):
                refusals[place] = answer
        return refusals

    def read(self, shard: int, consumer: str, count: int, wait: float = 0.0) -> list[RawEntry]:
        """Read up to `count` entries that nobody has read yet; they are pending at this consumer until `done`.

        Where there are none, wait up to `wait` seconds for the first.
        """
        block = int(wait * 1000) or None
        with self.connection.client(self.key(shard)) as client:
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
        found = [RawEntry(entry_id.decode(), fields) for _, entries in reply or [] for entry_id, fields in entries]
        self._accounting.was_read(shard, len(found))
        return found

    def reclaim(self, shard: int, consumer: str, count: int, idle: float) -> list[RawEntry] | None:
        """Take over entries that have been pending for `idle` seconds, and leave the consumer's mark (`Holding`).

        Returns at most `count` entries, or one that is to be tried alone, and None when nothing is idle. Entries that
        were deleted are no longer pending then.
        """
        (deaths, mark), numbers = reclaim_arguments(shard, consumer, count, idle)
        keys = [self.key(shard), deaths, mark]
        reply = self.connection.script(reclaim_script(), keys, GROUP, consumer, WAITING, *numbers)
        if reply is None:
            return None
        return [RawEntry(i.decode(), dict(zip(it[::2], it[1::2], strict=True)), deaths) for i, it, deaths in reply]

    def leave_waiting(self, shard: int, entry_ids: Sequence[str]) -> None:
        """Leave entries pending for a newer worker, which reclaims them; the workers of `WAITING` never do."""
        with self.connection.client(self.key(shard)) as client:
            client.xclaim(self.key(shard), GROUP, WAITING, 0, list(entry_ids), justid=True)

    def done(self, shard: int, entry_ids: Sequence[str]) -> list[float]:
        """Delete, acknowledge and count entries whose events are committed.

        Returns:
            Their ages in seconds, by Redis' clock and their ids; 0 where a producer chose an id in the future.
        """
        now = self._accounting.done(self.key(shard), entry_ids, shard=shard)
        return [max(now - int(entry_id.partition("-")[0]), 0) / 1000 for entry_id in entry_ids]

    def vanished(self, shard: int, *, keep: bool = True) -> Vanished:
        """Return how many entries left a shard uncounted since its group was made; `keep` notes it in Redis."""
        return self._accounting.vanished(self.key(shard), shard, keep=keep)

    def watch(self, shard: int) -> None:
        """Look at a shard before it is counted: what Redis has lost since this process last saw it, has vanished."""
        self._accounting.watch(self.key(shard), shard)

    def leave(self, shard: int) -> None:
        """End `watch`, since another process may count the shard from now on."""
        self._accounting.leave(shard)

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
        with self.connection.client(key) as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.xlen(key)
            pipeline.xrange(key, count=1)
            pipeline.time()
            pipeline.xinfo_groups(key)
            length, oldest, now, groups = pipeline.execute(raise_on_error=False)
            if isinstance(length, RedisError):
                raise type(length)(f"{key}: {length}")
        oldest_id = oldest[0][0].decode() if oldest else ""
        age = seconds_of(now) - id_seconds(oldest_id) if oldest else 0.0
        ours = [] if isinstance(groups, RedisError) else [it for it in groups if it["name"] == GROUP.encode()]
        pending = sum(group["pending"] for group in ours)
        read_id = ours[0]["last-delivered-id"].decode() if ours else "0-0"
        return Backlog(length, pending, max(age, 0.0), age > -CLOCK_SECONDS, oldest_id, read_id)

    def close(self) -> None:
        self.connection.close()

    def _add(self, server: str, packs: Sequence[tuple[int, str, Pack]]) -> list[StreamUnavailableError | None]:
        """Add packs, given with their shards and streams, to one server; as `offer`."""
        with entry_spans(packs) as (entries, refusals):
            try:
                with self.connection.server(server) as client:
                    pipeline = client.pipeline(transaction=False)
                    for key, fields in entries:
                        pipeline.xadd(key, fields)  # type: ignore[arg-type]
                    # The pipeline itself would quote the command in the error, and events with it.
                    answers = self._replicas.execute(server, client, pipeline)
            except StreamUnavailableError as error:
                error.is_uncertain = True
                raise
            refusals += [
                self._refusal(server, answer) if isinstance(answer, RedisError) else None for answer in answers
            ]
        return refusals

    def _refusal(self, server: str, error: RedisError) -> StreamUnavailableError:
        refusal = self.connection.refusal(server, error)
        refusal.is_uncertain = isinstance(error, TooFewReplicasError)
        return refusal

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


def shard_of_row(row: Row, shards: int) -> int:
    """Return the shard of an event: that of its user."""
    return shard_of_number(row[_USER_ID], shards)
