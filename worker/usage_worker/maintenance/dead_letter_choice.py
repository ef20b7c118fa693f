"""Which dead letters are meant: by number or by what they have in common, how many there are, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from usage_worker.store.connection import Store


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """What dead letters have in common; None is anything."""

    reason: str | None = None
    """A part of the reason."""
    text: str | None = None
    """A part of the payload, such as an id."""
    since: datetime | None = None
    until: datetime | None = None
    replayed: bool = False
    """Whether those that were replayed are meant, too."""
    ids: Sequence[int] | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether it says what the dead letters have in common."""
        return any((self.reason, self.text, self.since, self.until))


class Matching(NamedTuple):
    """How many dead letters match a filter, how many events they hold, and the ids of the newest ones, these first."""

    dead_letters: int
    events: int
    ids: list[int]


class Discarded(NamedTuple):
    """How many dead letters were deleted, and how many events they held."""

    dead_letters: int
    events: int


def matching(store: Store, wanted: DeadLetterFilter, limit: int | None = None) -> Matching:
    """Count the dead letters that match a filter; `limit` is the greatest number of ids, None is no limit."""
    (row,) = store.rows(query("matching_dead_letters"), **asdict(wanted), limit=limit)
    return Matching(**row)


def reasons(store: Store, wanted: DeadLetterFilter, limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` reasons of the dead letters that match a filter, those of the most events first."""
    return store.rows(query("dead_letter_reasons"), **asdict(wanted), limit=limit)


def discard(store: Store, ids: Sequence[int]) -> Discarded:
    """Delete dead letters for good; the intake totals keep their events as quarantined."""
    (row,) = store.rows(query("discard_dead_letters"), ids=ids)
    return Discarded(**row)
