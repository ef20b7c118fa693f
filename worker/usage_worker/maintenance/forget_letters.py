"""Dead letters that name a user: counted, or without the user's events."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from usage_worker.maintenance.retry import retry
from usage_worker.queue.kept import is_cut
from usage_worker.queue.letter_parts import is_readable, named_in, named_in_letter, without
from usage_worker.store.forget import letters_that_may_name, rewrite_letters
from usage_worker.store.forget_places import letter_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.maintenance.person import Person
    from usage_worker.queue.letter_events import DeadLetterRow
    from usage_worker.store.connection import Store


def count_letters(store: Store, person: Person, ids: ExternalIds) -> int:
    """Return how many dead letters name a user, or may do so where they are not whole."""
    return sum(len(numbers) for _, numbers in _naming(store, person, ids))


def erase_from_letters(store: Store, person: Person, ids: ExternalIds, wait_timeout: float) -> int:
    """Take a user's events out of the dead letters; held ones are waited for, `wait_timeout` seconds.

    Returns the number of letters that were deleted with events that may be those of others: nobody can tell, or the
    reason names the user.
    """

    def left_of(letter: DeadLetterRow) -> DeadLetterRow | None:
        return None if is_cut(letter["payload"]) else without(letter, frozenset({person.id}), ids)

    def is_whole(letter: DeadLetterRow) -> bool:
        return not is_readable(letter) or person.id in named_in(letter["reason"], ids)

    deleted_whole = 0
    for table, numbers in _naming(store, person, ids):
        deleted = retry(partial(rewrite_letters, store, table, numbers, left_of), wait_timeout)
        deleted_whole += sum(is_cut(it["payload"]) or (it["events"] > 1 and is_whole(it)) for it in deleted)
    return deleted_whole


def _naming(store: Store, person: Person, ids: ExternalIds) -> Iterator[tuple[str, list[int]]]:
    """Yield pages of the ids of dead letters that name a user, or may do so, with their table."""
    for table in letter_tables(store):
        for page in letters_that_may_name(store, table, person.id, person.external_id):
            numbers = [it["id"] for it in page if is_cut(it["payload"]) or person.id in named_in_letter(it, ids)]
            if numbers:
                yield table, numbers
