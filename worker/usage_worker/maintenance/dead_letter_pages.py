"""Dead letters, read a page at a time: a million of them, or payloads of megabytes, do not fill the memory.

Numbers and sizes are read first, so that a page of payloads is bounded by its bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.store.byte_pages import PAGE_ROWS, in_pages
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
    from usage_worker.queue.letter_events import DeadLetterRow
    from usage_worker.store.connection import Store

# Rows of the primary key that one query filters.
RANGE_ROWS = 2_000


class Size(NamedTuple):
    """The number of a dead letter, and the bytes of its payload."""

    id: int
    bytes: int


def matching_sizes(store: Store, wanted: DeadLetterFilter) -> Iterator[Size]:
    """Yield the sizes of the dead letters that match a filter and exist when the first is read, oldest first.

    What a replay quarantines again has a higher number than those.
    """
    (last,) = store.rows(query("last_dead_letter"))
    reached: int | None = 0
    while reached is not None:
        bounds = {"after": reached, "last": last["id"], "rows": RANGE_ROWS}
        (found,) = store.rows(query("matching_in_range"), **asdict(wanted), **bounds)
        yield from map(Size, found["ids"], found["bytes"])
        reached = found["reached"]


def summaries(store: Store, ids: Sequence[int]) -> Iterator[DeadLetterRow]:
    """Yield the dead letters with these numbers that exist, in this order: the bytes of a payload instead of it."""
    for start in range(0, len(ids), PAGE_ROWS):
        yield from _in_order(store, "dead_letter_summaries", ids[start : start + PAGE_ROWS])


def with_payloads(store: Store, sizes: Iterable[Size]) -> Iterator[DeadLetterRow]:
    """Yield the dead letters of these sizes that still exist, in this order, with their payloads."""
    for page in in_pages(sizes, itemgetter(1)):
        yield from _in_order(store, "dead_letters_by_id", [size.id for size in page])


def _in_order(store: Store, name: str, ids: Sequence[int]) -> Iterator[DeadLetterRow]:
    found = {row["id"]: row for row in store.rows(query(name), ids=ids)}
    return (found[number] for number in ids if number in found)
