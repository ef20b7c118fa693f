"""The bounded buffer of a sender: events by shard, packed for the stream. Its methods need the sender's lock."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from usage_worker.events.columns import NAMES
from usage_worker.publisher.redis_watch import BACKFILL_MEMORY_LIMIT
from usage_worker.queue.entry import Pack
from usage_worker.queue.stream import shard_of_row
from usage_worker.queue.vitals import REDIS_MEMORY_LIMIT
from usage_worker.tracing import current_span

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from usage_worker.events.columns import Row
    from usage_worker.events.external_ids import ExternalId
    from usage_worker.publisher.account import Account, Portion
    from usage_worker.tracing import SpanContext

# Of packs in one round trip.
PACKS_AT_ONCE = 16
# Of an event that waits for others, with its ids, numbers and places in lists, but without the characters of its texts:
# 390 (ids alone) to 840 (every value) were measured. Its columns have 190, and are counted as they are.
ROW_BYTES = 880
# Of a pack besides its events: 900 were measured. Nothing in a pack of 500, most of what packs of one event take.
PACK_BYTES = 900
# Of an id that was made of a number or a text, without its characters, until its pack is written: 280 were measured.
MADE_BYTES = 320
# At most, so that no text need be measured for each event.
CHARACTER_BYTES = 4
_MODEL, _PROVIDER = map(NAMES.index, ("model", "provider"))
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0


class Retry:
    """When to try again: after `FIRST_PAUSE`, then after twice as long each time, `LONGEST_PAUSE` at most."""

    __slots__ = ("_pause", "due", "reason")

    def __init__(self) -> None:
        self.succeeded()

    def succeeded(self) -> None:
        self.reason = ""
        self.due = 0.0
        self._pause = FIRST_PAUSE

    def failed(self, reason: str) -> None:
        self.reason = reason
        self.due = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


class Sealed:
    """A pack, which is sent again under the same key until Redis has it, and how many of its events a portion has.

    `pack` is None until its columns are written; `retry` is for that alone.
    """

    __slots__ = ("key", "lane", "made", "origin", "pack", "portions", "retry", "size")

    def __init__(self, lane: Lane, size: int) -> None:
        self.lane = lane
        self.made: Collection[ExternalId] = lane.made.values()
        self.origin = lane.origin
        self.key = uuid7()
        self.portions = Counter(lane.portions)
        self.size = size
        self.pack: Pack | None = None
        self.retry = Retry()

    def make_pack(self, values: Sequence[Any]) -> Pack:
        """Make the pack from the values of its rows, which takes a while and needs no lock."""
        lane = self.lane
        return Pack.of_rows(
            self.key,
            values,
            self.made,
            times_are_ours=lane.times_are_ours,
            is_backfill=lane.is_backfill,
            origin=self.origin,
        )


class Lane:
    """The events of one shard: sealed packs, then those that still wait for others.

    `times_are_ours`, `is_backfill`: see `Pack`.
    """

    def __init__(self, shard: int, room: int, *, times_are_ours: bool, is_backfill: bool) -> None:
        self.shard = shard
        self.times_are_ours = times_are_ours
        self.is_backfill = is_backfill
        self.room = room
        self.bytes = self.sealed_bytes = 0
        # Of one row after the other: the garbage collector would traverse a tuple for each event.
        self.values: list[Any] = []
        # The ids that were made of numbers and texts, by their UUIDs.
        self.made: dict[int, ExternalId] = {}
        self.portions: list[Portion] = []
        # The span of the first event that waits: a look takes 0.7 µs, and `add` itself 0.5 µs.
        self.origin: SpanContext | None = None
        self.sealed: list[Sealed] = []
        self.retry = Retry()

    @property
    def packs(self) -> Iterator[tuple[Sealed, Pack]]:
        """The packs that can be sent."""
        return ((sealed, sealed.pack) for sealed in self.sealed if sealed.pack)


class Buffer:
    """Events of all publishers of a sender, `limit` bytes at most.

    A shard whose entries Redis refuses may fill its share of them only, so that the other shards keep theirs.

    Attributes:
        full_lane: the lane whose share had no room for the event that `add` last refused; None where it was the buffer.
    """

    def __init__(self, shards: int, limit: int, *, is_backfill: bool = False) -> None:
        self.lanes = [
            Lane(shard, limit, times_are_ours=ours, is_backfill=is_backfill and not ours)
            for ours in (False, True)
            for shard in range(shards)
        ]
        self.memory_limit = BACKFILL_MEMORY_LIMIT if is_backfill else REDIS_MEMORY_LIMIT
        self._shards = shards
        # In the order in which they were sealed.
        self._unwritten: dict[Sealed, list[Any]] = {}
        self.bytes = 0
        self.full_lane: Lane | None = None
        self._limit = limit

    def has_room(self, events: int) -> bool:
        """Return whether there is room for so many events of any shard, without their texts."""
        return self.bytes + events * ROW_BYTES <= self._limit

    def add(
        self, account: Account, row: Row, made: Sequence[ExternalId], *, time_is_ours: bool, is_accepted: bool = False
    ) -> Lane | None:
        """Add an event, with its ids that were made, to those of its shard.

        Returns None if there is no room for it; one that `is_accepted` is added all the same.
        """
        lane = self.lanes[shard_of_row(row, self._shards) + self._shards * time_is_ours]
        size = ROW_BYTES + CHARACTER_BYTES * (len(row[_MODEL] or "") + len(row[_PROVIDER] or ""))
        if not lane.portions:
            size += PACK_BYTES
        if made and (made := [external for external in made if external.id.int not in lane.made]):
            size += sum(MADE_BYTES + CHARACTER_BYTES * len(external.external_id) for external in made)
        if (self.bytes + size > self._limit or lane.bytes + size > lane.room) and not is_accepted:
            self.full_lane = lane if lane.bytes + size > lane.room else None
            return None
        if not lane.portions:
            lane.origin = current_span()
        portion = account.portion
        portion.unsent += 1
        lane.values += row
        if made:
            lane.made |= {external.id.int: external for external in made}
        lane.portions.append(portion)
        lane.bytes += size
        self.bytes += size
        return lane

    def seal(self, lane: Lane) -> None:
        """Make a pack of the events that wait in a shard, if there are any."""
        if lane.values:
            sealed = Sealed(lane, lane.bytes - lane.sealed_bytes)
            lane.sealed.append(sealed)
            lane.sealed_bytes = lane.bytes
            self._unwritten[sealed] = lane.values
            lane.values, lane.portions, lane.made = [], [], {}

    def seal_due(self, *, ripe: bool) -> None:
        """Make packs of the events that are to be sent now: those that wait for others if they are `ripe`."""
        for lane in self._due():
            if ripe or lane.retry.reason:
                self.seal(lane)

    def unwritten(self, most: int | None, lane: Lane | None = None) -> list[tuple[Sealed, list[Any]]]:
        """Return the packs whose columns are to be written now, `most` of them, with the values of their rows.

        They are those of all lanes, or of one.
        """
        now = time.monotonic()
        due = (item for item in self._unwritten.items() if item[0].retry.due <= now and lane in (None, item[0].lane))
        return list(islice(due, most))

    def can_shrink(self, full: Lane | None) -> bool:
        """Return whether columns can be written to make room, if need be those of events that wait for others.

        Where one lane is `full`, those of others make none for it.
        """
        if not self.unwritten(1, full):
            for lane in [full] if full else self.lanes:
                self.seal(lane)
        return bool(self.unwritten(1, full))

    def keep_written(self, sealed: Sealed, pack: Pack) -> None:
        """Keep the columns of a pack instead of its rows, and make room."""
        if sealed in self._unwritten:  # not dropped meanwhile, nor written by another thread
            del self._unwritten[sealed]
            self._resize(sealed, len(pack.body) + len(pack.ids) + PACK_BYTES)
            sealed.pack, sealed.made = pack, ()

    @property
    def has_waiting(self) -> bool:
        """Whether events wait for others, but for those of shards that Redis refuses."""
        return any(lane.values and not lane.retry.reason for lane in self.lanes)

    def next_due(self, ripe: float) -> float:
        """Return when the next pack can be sent; events that wait for others are due at `ripe`."""
        lanes = [lane for lane in self.lanes if lane.values or any(lane.packs)]
        times = (lane.retry.due if lane.retry.reason or any(lane.packs) else ripe for lane in lanes)
        return min(times, default=float("inf"))

    def next_writing(self) -> float:
        """Return when columns are to be written next."""
        return min((sealed.retry.due for sealed in self._unwritten), default=float("inf"))

    def due(self) -> list[tuple[Sealed, Pack]]:
        """Return the packs to send now."""
        lanes = [lane for lane in self._due() if any(lane.packs)]
        share = max(PACKS_AT_ONCE // max(len(lanes), 1), 1)
        # One pack shows whether a shard that refused takes entries again.
        return [pair for lane in lanes for pair in islice(lane.packs, 1 if lane.retry.reason else share)]

    def settle(self, sealed: Sealed) -> None:
        """Count a pack that Redis has, and make room."""
        if sealed not in sealed.lane.sealed:
            return  # dropped meanwhile
        self._remove(sealed)
        for portion, events in sealed.portions.items():
            portion.unsent -= events
            if not portion.account.lost:
                portion.account.sent += events

    def refuse(self, lane: Lane, reason: str) -> None:
        """Keep what Redis refused of one shard, and let it fill its share of the buffer only."""
        lane.retry.failed(reason)
        lane.room = self._limit // self._shards

    def accept(self, lane: Lane) -> None:
        """Lift what `refuse` imposed."""
        lane.retry.succeeded()
        lane.room = self._limit

    def drop(self, accounts: Collection[Account]) -> dict[Account, int]:
        """Drop the unsent events of closed publishers; return the number of each publisher that had any.

        A pack that other publishers' events share is still sent: it may have arrived already, under its key.
        """
        dropped = {account: lost for account in accounts if (lost := account.lose())}
        for lane in self.lanes:
            self.seal(lane)
            for sealed in list(lane.sealed):
                if all(portion.account in accounts or portion.account.lost for portion in sealed.portions):
                    self._remove(sealed)
        return dropped

    def owners(self) -> set[Account]:
        """Return whose events wait."""
        portions = (portion for lane in self.lanes for sealed in lane.sealed for portion in sealed.portions)
        waiting = (portion for lane in self.lanes for portion in lane.portions)
        return {portion.account for portion in (*portions, *waiting)}

    def holding(self) -> str:
        """Return why packs of some shard wait, or an empty string."""
        refused = (lane.retry.reason for lane in self.lanes if lane.retry.reason)
        return next(refused, "") or next((it.retry.reason for it in self._unwritten if it.retry.reason), "")

    def _due(self) -> list[Lane]:
        now = time.monotonic()
        return [lane for lane in self.lanes if lane.bytes and lane.retry.due <= now]

    def _remove(self, sealed: Sealed) -> None:
        sealed.lane.sealed.remove(sealed)
        self._unwritten.pop(sealed, None)
        self._resize(sealed, 0)

    def _resize(self, sealed: Sealed, size: int) -> None:
        change = size - sealed.size
        sealed.size = size
        sealed.lane.bytes += change
        sealed.lane.sealed_bytes += change
        self.bytes += change
