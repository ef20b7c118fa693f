"""The last id of a shard: where a producer chose one in the future, Redis gives it to every later entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import ResponseError

from usage_worker.queue.vitals import seconds_of

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

# How far the clock of a producer that sends ids of its own may be ahead, in seconds.
CLOCK_SECONDS = 5.0
_LAST = 2**64 - 1
# No id can follow this one.
LAST_ID = f"{_LAST}-{_LAST}"
WAY_OUT = 'see "An id in the future" in docs/operations.md: drain the shard, then delete its empty stream'


class LastId(NamedTuple):
    """The last id of a shard, and how many seconds it is ahead of Redis' clock (negative: behind)."""

    entry_id: str
    ahead_seconds: float

    @property
    def in_future(self) -> bool:
        """Whether later entries get this time instead of their own."""
        return self.ahead_seconds > CLOCK_SECONDS

    @property
    def exhausted(self) -> bool:
        """Whether Redis can add no entry any more."""
        return self.entry_id == LAST_ID

    @property
    def reason(self) -> str:
        """What is wrong, for a shard whose last id is `in_future`."""
        if self.exhausted:
            return "a producer chose the last possible id, so that Redis adds no entry any more"
        return f"a producer chose the id {self.entry_id}, which lies in the future: later entries get its time"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return WAY_OUT


def last_id(connection: RedisConnection, stream: str) -> LastId:
    """Return the last id that the stream of a shard gave or was given, `0-0` where there is none.

    Raises:
        StreamUnavailableError: Redis did not answer.
    """
    with connection.client(stream) as client:
        pipeline = client.pipeline(transaction=False)
        pipeline.xinfo_stream(stream)
        pipeline.time()
        info, now = pipeline.execute(raise_on_error=False)
        failed = next((answer for answer in (info, now) if isinstance(answer, Exception)), None)
        if isinstance(info, ResponseError) and "no such key" in str(info):
            return LastId("0-0", -seconds_of(now))
        if failed:
            raise type(failed)(f"{stream}: {failed}")
    entry_id: str = info["last-generated-id"].decode()
    return LastId(entry_id, id_seconds(entry_id) - seconds_of(now))


def id_order(entry_id: str) -> tuple[int, int]:
    """Return an id as numbers, which have the order of the stream; the texts have not."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def id_seconds(entry_id: str) -> float:
    """Return the first half of an id, which is in milliseconds since 1970, in seconds."""
    return int(entry_id.partition("-")[0]) / 1000
