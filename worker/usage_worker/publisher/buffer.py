"""The bounded buffer of a sender: events by shard, packed for the stream. Its methods need the sender's lock."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from uuid_utils.compat import uuid7

from usage_worker.queue.stream import Pack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from usage_worker.publisher.account import Account, Portion

# Of packs in one round trip.
PACKS_AT_ONCE = 16
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0


class Retry:
    """When to try again: after `FIRST_PAUSE`, then after twice as long each time, `LONGEST_PAUSE` at most."""

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


class Sealed(NamedTuple):
    """A pack, which is sent again under the same key until Redis has it, and the portion of each of its events."""

    pack: Pack
    portions: list[Portion]
    size: int


class Lane:
    """The events of one shard: sealed packs, then those that still wait for others.

    `times_are_ours`: see `Pack`.
    """

    def __init__(self, shard: int, room: int, *, times_are_ours: bool) -> None:
        self.shard = shard
        self.times_are_ours = times_are_ours
        self.room = room
        self.bytes = 0
        self.bodies: list[bytes] = []
        self.portions: list[Portion] = []
        self.sealed: list[Sealed] = []
        self.retry = Retry()

    def seal(self) -> None:
        """Make a pack of the events that wait, if there are any."""
        if self.bodies:
            pack = Pack(uuid7(), self.bodies, self.times_are_ours)
            self.sealed.append(Sealed(pack, self.portions, sum(map(len, self.bodies))))
            self.bodies, self.portions = [], []


class Buffer:
    """Events of all publishers of a sender, `limit` bytes at most.

    A shard whose entries Redis refuses may fill its share of them only, so that the other shards keep theirs.
    """

    def __init__(self, shards: int, limit: int) -> None:
        self.lanes = {
            (shard, ours): Lane(shard, limit, times_are_ours=ours) for shard in range(shards) for ours in (False, True)
        }
        self._shards = shards
        self.bytes = 0
        self._limit = limit

    def add(self, account: Account, lane: Lane, body: bytes) -> int:
        """Add an event; return how many wait in its shard now, 0 if there is no room for it."""
        size = len(body)
        if self.bytes + size > self._limit or lane.bytes + size > lane.room:
            return 0
        portion, bodies = account.portion, lane.bodies
        bodies.append(body)
        lane.portions.append(portion)
        lane.bytes += size
        self.bytes += size
        portion.unsent += 1
        return len(bodies)

    def next_due(self, ripe: float) -> float:
        """Return when the next pack is due; events that wait for others are due at `ripe`."""
        lanes = [lane for lane in self.lanes.values() if lane.bytes]
        times = (lane.retry.due if lane.sealed or lane.retry.reason else ripe for lane in lanes)
        return min(times, default=float("inf"))

    def due(self, *, ripe: bool) -> list[tuple[Lane, Sealed]]:
        """Return the packs to send now, also of the events that wait for others if those are `ripe`."""
        now = time.monotonic()
        lanes = [lane for lane in self.lanes.values() if lane.bytes and lane.retry.due <= now]
        share = max(PACKS_AT_ONCE // max(len(lanes), 1), 1)
        return [pair for lane in lanes for pair in self._first(lane, share, ripe=ripe)]

    def settle(self, lane: Lane, sealed: Sealed) -> None:
        """Count a pack that Redis has, and make room."""
        if sealed not in lane.sealed:
            return  # dropped meanwhile
        self._remove(lane, sealed)
        for portion, events in Counter(sealed.portions).items():
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

    def drop(self, accounts: Collection[Account]) -> int:
        """Drop the unsent events of closed publishers; return their number.

        A pack that other publishers' events share is still sent: it may have arrived already, under its key.
        """
        dropped = 0
        for account in accounts:
            dropped += account.lose()
        for lane in self.lanes.values():
            lane.seal()
            for sealed in list(lane.sealed):
                if all(portion.account in accounts or portion.account.lost for portion in sealed.portions):
                    self._remove(lane, sealed)
        return dropped

    def owners(self) -> set[Account]:
        """Return whose events wait."""
        portions = (portion for lane in self.lanes.values() for sealed in lane.sealed for portion in sealed.portions)
        waiting = (portion for lane in self.lanes.values() for portion in lane.portions)
        return {portion.account for portion in (*portions, *waiting)}

    def _first(self, lane: Lane, share: int, *, ripe: bool) -> Iterator[tuple[Lane, Sealed]]:
        if ripe or lane.retry.reason:
            lane.seal()
        # One pack shows whether a shard that refused takes entries again.
        yield from ((lane, sealed) for sealed in lane.sealed[: 1 if lane.retry.reason else share])

    def _remove(self, lane: Lane, sealed: Sealed) -> None:
        lane.sealed.remove(sealed)
        lane.bytes -= sealed.size
        self.bytes -= sealed.size
