"""Checks the events of a request, and appends the valid ones to the stream."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from uuid_utils.compat import uuid7

from usage_worker.errors import EventRefusedError, StreamUnavailableError
from usage_worker.events.columns import PACK_EVENTS
from usage_worker.events.event import Window
from usage_worker.events.external_ids import external_ids
from usage_worker.events.wire import prepare
from usage_worker.publisher.redis_watch import RedisWatch, warn_of
from usage_worker.publisher.workers_watch import WorkersWatch
from usage_worker.queue.entry import Pack
from usage_worker.queue.stream import EventStream, shard_of_row
from usage_worker.queue.vitals import REDIS_MEMORY_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from usage_worker.events.wire import Prepared
    from usage_worker.settings import Settings

UNAVAILABLE = "Redis is not available, or nearly full; send the events again"
log = logging.getLogger("usage_worker.http")


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that was not taken: its place in the request, the field, and why."""

    index: int
    field: str | None
    reason: str


class Taken(NamedTuple):
    """The outcome of a request.

    `accepted` is None where Redis may or may not have them; `error` is why the request as a whole failed, or empty.
    """

    accepted: int | None
    refused: list[Refused]
    error: str = ""


class Receiver:
    """Appends the events of requests to the stream; its methods wait for Redis, and any thread may call them."""

    def __init__(self, settings: Settings) -> None:
        self._accept_window = settings.accept_window
        self._stream = EventStream.of(settings, warn_of)
        self._ids = external_ids(settings.id_namespace) if settings.takes_any_id else None
        self._watch = RedisWatch(self._stream.connection, REDIS_MEMORY_LIMIT)
        self._workers_watch = WorkersWatch(self._stream, settings.id_namespace if self._ids else None)
        self._checking = threading.Lock()
        self._turns: dict[str | None, threading.Lock] = {}

    def take(self, read: Callable[[], Sequence[Any]], fields_of: Callable[[Any], Any], key: str | None = None) -> Taken:
        """Send the valid events; refuse each of the others by itself.

        Args:
            read: returns what the request holds, an object for each event.
            fields_of: returns the fields of such an object.
            key: the name of the API key. Of each key only one request waits to be parsed, so that many requests of one
                key do not delay the others.
        """
        # One request at a time, as Python computes anyway: the objects of one alone take fifty times its bytes.
        with self._turns.setdefault(key, threading.Lock()), self._checking:
            events, refused = self._check(read(), fields_of)
        if not events:
            return Taken(0, refused)
        return self._send(events, refused)

    def is_ready(self) -> bool:
        """Return whether Redis would take events now."""
        try:
            return self._watch.has_room()
        except StreamUnavailableError as error:
            log.warning("not ready: %s", error)
            return False

    def close(self) -> None:
        self._stream.close()

    def _check(
        self, items: Sequence[Any], fields_of: Callable[[Any], Any]
    ) -> tuple[list[tuple[int, Prepared]], list[Refused]]:
        window = Window.around(datetime.now(UTC), self._accept_window)
        events, refused = [], []
        for index, item in enumerate(items):
            try:
                events.append((index, prepare(fields_of(item), window, self._ids)))
            except EventRefusedError as error:
                field, _, reason = error.detail.partition(": ")
                refused.append(Refused(index, field, reason) if reason else Refused(index, None, field))
        return events, refused

    def _send(self, events: list[tuple[int, Prepared]], refused: list[Refused]) -> Taken:
        packs = list(self._packs(events))
        try:
            answers = self._stream.offer(((shard, pack) for shard, pack, _ in packs), self._look)
        except StreamUnavailableError as error:
            log.warning("refusing events: %s", error)
            return Taken(None if error.is_uncertain else 0, refused, UNAVAILABLE)
        if uncertain := next((answer for answer in answers if answer and answer.is_uncertain), None):
            log.warning("refusing events: %s", uncertain)
            return Taken(None, refused, UNAVAILABLE)
        lost = [index for (_, _, places), answer in zip(packs, answers, strict=True) if answer for index in places]
        if not lost:
            return Taken(len(events), refused)
        log.warning("refusing events: %s", next(filter(None, answers)))
        held = [Refused(index, None, UNAVAILABLE) for index in lost]
        return Taken(len(events) - len(lost), sorted(refused + held, key=attrgetter("index")), UNAVAILABLE)

    def _look(self, server: str) -> None:
        self._watch.check(server, now=False)
        self._workers_watch.check()

    def _packs(self, events: list[tuple[int, Prepared]]) -> Iterator[tuple[int, Pack, list[int]]]:
        """Yield the packs with their shards and the places of their events."""
        lanes = defaultdict(list)
        for index, event in events:
            shard = shard_of_row(event.row, self._stream.shards)
            lanes[shard, event.time_is_ours].append((index, event))
        for (shard, times_are_ours), lane in lanes.items():
            rest = iter(lane)
            while part := list(islice(rest, PACK_EVENTS)):
                values = [value for _, event in part for value in event.row]
                made = (external for _, event in part for external in event.made)
                pack = Pack.of_rows(uuid7(), values, made, times_are_ours=times_are_ours)
                yield shard, pack, [index for index, _ in part]
