"""Which entries a consumer holds, and which entries ended their consumers.

A consumer leaves a mark in Redis when it begins to read a shard, renews it, and its claim, while it works, and removes
it at an orderly end: success or an exception. A mark that is left and no longer renewed is a death. It counts for the
entries that the consumer held, once others reclaim them. An outage, a wait for a lock or a cancelled batch never
counts; what counted while a process was only stopped is removed when it goes on.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from usage_worker.errors import StreamUnavailableError
from usage_worker.queue.claim import CLAIM_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from usage_worker.queue.connection import RedisConnection
    from usage_worker.queue.entry import RawEntry

# After so many deaths an entry is tried alone; if to decode it ends its consumer, too, it is set aside undecoded. A
# death after that, while it is counted, is rather a coincidence, and weighs no more than the first ones.
DEATHS_BEFORE_ALONE = 3
DEATHS_ALONE = 3
DEATHS_BEFORE_SET_ASIDE = DEATHS_BEFORE_ALONE + DEATHS_ALONE
# Even reading it was too much, twice: it stays in the stream, pending, until its deaths expire.
DEATHS_BEFORE_LEFT = DEATHS_BEFORE_SET_ASIDE + 2 * DEATHS_ALONE
# How long marks and deaths are kept, in seconds.
KEPT_SECONDS = 86_400
# A mark is renewed at least this often, as a part of the time after which entries are reclaimed; twice that without
# renewal is a death.
_RENEWED_EACH = 0.25


class Holding:
    """What one consumer holds. Its name is its own in every life, unlike the id of a process, which comes again."""

    def __init__(self, connection: RedisConnection, consumer: str, idle: float) -> None:
        self._connection = connection
        self._consumer = consumer
        self._idle = idle
        self._held: dict[int, list[tuple[str, int]]] = {}
        self._ended_late: set[int] = set()
        self.consumer = self._new_name()

    @contextmanager
    def during(self, shard: int, renew_claim: Callable[[], None]) -> Iterator[None]:
        """Renew the claim, and the mark that `EventStream.reclaim` leaves, until the end of the block.

        The mark is removed there. A process without the memory for what it read is no better than dead: it leaves its
        mark, and goes on as another consumer.
        """
        over = threading.Event()
        started = time.monotonic()
        with suppress(RuntimeError):  # no thread can be started: neither is renewed
            arguments = shard, renew_claim, over
            threading.Thread(target=self._renew, args=arguments, name="usage-holding", daemon=True).start()
        try:
            yield
        except MemoryError:
            self.consumer = self._new_name()
            self._held.pop(shard, None)
            raise
        finally:
            over.set()
            if time.monotonic() - started > self._idle:
                self._ended_late.add(shard)  # another consumer may have reclaimed what this one held
            with suppress(StreamUnavailableError):  # removed at the end of the next flush
                self._end(shard)

    def note(self, shard: int, entries: Iterable[RawEntry]) -> None:
        """Note what was read: an orderly end removes its deaths."""
        self._held.setdefault(shard, []).extend((entry.entry_id, entry.deaths) for entry in entries)

    def decoded(self, shard: int) -> None:
        """Note that an entry that was tried alone did not end this consumer when it was decoded."""
        mark = mark_key(shard, self.consumer)
        with suppress(StreamUnavailableError), self._connection.client(mark) as client:  # a full Redis refuses it
            client.set(mark, "", ex=KEPT_SECONDS)

    def survived(self, shard: int, entry_ids: Sequence[str]) -> None:
        """Remove the deaths of entries that were counted after all."""
        if entry_ids:
            with self._connection.client(deaths_key(shard)) as client:
                client.hdel(deaths_key(shard), *entry_ids)

    def _end(self, shard: int) -> None:
        late = shard in self._ended_late
        alive = [entry_id for entry_id, deaths in self._held.get(shard, ()) if late or deaths]
        self._ended_late.add(shard)  # until it has succeeded
        with self._connection.client(deaths_key(shard)) as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.delete(mark_key(shard, self.consumer))
            if alive:
                pipeline.hdel(deaths_key(shard), *alive)
            pipeline.execute()
        self._ended_late.discard(shard)
        self._held.pop(shard, None)

    def _renew(self, shard: int, renew_claim: Callable[[], None], over: threading.Event) -> None:
        mark = mark_key(shard, self.consumer)
        while not over.wait(min(self._idle * _RENEWED_EACH, CLAIM_SECONDS / 4)):
            with suppress(StreamUnavailableError):
                renew_claim()
            with suppress(StreamUnavailableError), self._connection.client(mark) as client:
                client.expire(mark, KEPT_SECONDS)

    def _new_name(self) -> str:
        return f"{self._consumer}-{token_hex(4)}"


@cache
def reclaim_script() -> str:
    """Return the script of `EventStream.reclaim`."""
    return Path(__file__).with_name("reclaim.lua").read_text("utf-8")


def reclaim_arguments(shard: int, consumer: str, count: int, idle: float) -> tuple[list[str], list[str | int]]:
    """Return what the script takes besides the stream: keys, and numbers in its order."""
    silent = int(idle * 2 * _RENEWED_EACH * 1000)
    numbers = [count, int(idle * 1000), silent, KEPT_SECONDS, DEATHS_BEFORE_ALONE, DEATHS_BEFORE_LEFT, DEATHS_ALONE]
    return [deaths_key(shard), mark_key(shard, consumer)], [mark_key(shard, ""), *numbers]


def mark_key(shard: int, consumer: str) -> str:
    """Return the key of a consumer's mark."""
    return f"usage:holding:{{{shard}}}:{consumer}"


def deaths_key(shard: int) -> str:
    """Return the key of the hash that counts deaths by entry id."""
    return f"usage:deaths:{{{shard}}}"
