"""Dead letters that name a user: counted, or without the user's events."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.retry import retry
from usage_worker.queue.kept import is_cut
from usage_worker.queue.letter_parts import named_in_letter, without
from usage_worker.store.forget import letter_tables, letters_that_may_name, rewrite_letters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.maintenance.person import Person
    from usage_worker.store import Store


def count_letters(store: Store, person: Person, ids: ExternalIds) -> int:
    """Return how many dead letters name a user, or may do so where they are not whole."""
    return sum(
        is_cut(letter["payload"]) or person.id in named_in_letter(letter, ids)
        for _, page in _pages(store, person)
        for letter in page
    )


def erase_from_letters(store: Store, person: Person, ids: ExternalIds) -> int:
    """Take a user's events out of the dead letters.

    Returns the number of letters that were deleted since nobody can search them whole.
    """
    cut = 0
    for table, page in _pages(store, person):
        changes: list[tuple[int, dict[str, Any] | None]] = []
        for letter in page:
            unsearchable = is_cut(letter["payload"])
            left = None if unsearchable else without(letter, frozenset({person.id}), ids)
            if left is not letter:
                changes.append((letter["id"], left))
                cut += unsearchable
        retry(partial(rewrite_letters, store, table, changes))
    return cut


def _pages(store: Store, person: Person) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the dead letters that may name a user, with their table."""
    for table in letter_tables(store):
        for page in letters_that_may_name(store, table, person.id, person.external_id):
            yield table, page
