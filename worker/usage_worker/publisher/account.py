"""The counters of one publisher; whoever changes them holds the sender's lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakMethod

if TYPE_CHECKING:
    from usage_worker.publisher.hooks import Fields, Kind, Report


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Numbers of events. accepted = sent + buffered + dropped after acceptance.

    Refused events, and those that `before_send` filtered, were never accepted.
    """

    accepted: int
    sent: int
    buffered: int
    dropped: int
    refused: int
    filtered: int
    holding: str
    """Why events are not being sent at the moment, all or those of one shard, or an empty string."""


class Account:
    """The counters of one publisher, which outlive it until its events are sent.

    `report`, a method, is not kept alive: what the application does in it often refers to the publisher.
    """

    def __init__(self, report: Report) -> None:
        self._report = WeakMethod(report)
        self.start_over()

    def start_over(self) -> None:
        """Begin at zero, as a forked child does."""
        self.open = True
        self.sent = self.dropped = self.lost = self.refused = self.filtered = 0
        # Accepted events that the buffer gets when the thread that was interrupted leaves the lock.
        self.postponed = 0
        self.portion = Portion(self)
        self._earlier: list[Portion] = []

    def report(self, kind: Kind, reason: str, count: int = 1, fields: Fields | None = None) -> None:
        """Tell the publisher, if there is one, about events that are lost; needs no lock, and must not have it."""
        if report := self._report():
            report(kind, reason, count, fields)

    @property
    def unsent(self) -> int:
        """The number of accepted events that are not in Redis yet."""
        return self.postponed + sum(portion.unsent for portion in self.portions())

    def lose(self) -> int:
        """Give up the unsent events; return their number."""
        lost = self.unsent
        self.lost += lost
        self.portion, self._earlier = Portion(self), []
        return lost

    def stats(self, holding: str) -> PublisherStats:
        """Return the counters, and why events are being held back."""
        unsent, dropped = self.unsent, self.dropped + self.lost
        accepted = self.sent + unsent + self.lost
        return PublisherStats(accepted, self.sent, unsent, dropped, self.refused, self.filtered, holding)

    def portions(self) -> list[Portion]:
        """Return the portions of all events up to now, and of those that follow."""
        return [*self._earlier, self.portion]

    def cut(self) -> list[Portion]:
        """Return the portions of all events up to now; those that follow get a portion of their own."""
        self._earlier = [portion for portion in self.portions() if portion.unsent]
        self.portion = Portion(self)
        return self._earlier


class Portion:
    """The events of one publisher between two calls of `flush`, which waits until none of them is unsent."""

    __slots__ = ("account", "unsent")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.unsent = 0
