"""Who was erased and is there again, since an older backup was restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import ForgetKeyError
from usage_worker.maintenance.forget import WAIT_SECONDS
from usage_worker.maintenance.person import Person
from usage_worker.queue.forgotten import ForgottenSet
from usage_worker.queue.letter_parts import named_in_letter
from usage_worker.store.external_ids import external_ids
from usage_worker.store.forget import all_letters, users_in
from usage_worker.store.forget_places import hidden_places, letter_tables, user_places
from usage_worker.store.forgotten import add_tombstones, tombstones, wait_for_batches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.events.tombstones import ForgetKey, Tombstone
    from usage_worker.queue.connection import RedisConnection
    from usage_worker.store.connection import Store


def known_tombstones(store: Store, connection: RedisConnection, key: ForgetKey) -> set[Tombstone]:
    """Return the tombstones of the database and of Redis.

    Raises:
        ForgetKeyError: some were made with another key.
    """
    with store.connection() as opened:
        known = tombstones(opened) | ForgottenSet(connection).all()
    if any(it.key_id != key.id for it in known):
        raise ForgetKeyError("users were erased with another USAGE_FORGET_KEY; set the same key as then")
    return known


def keep_tombstones(store: Store, connection: RedisConnection, known: set[Tombstone]) -> None:
    """Let the database and Redis both have every tombstone, and wait for batches that do not know them.

    Raises:
        LockHeldError: a batch does not end.
    """
    ForgottenSet(connection).add(known)
    add_tombstones(store, known)
    wait_for_batches(store, WAIT_SECONDS)


def returned(store: Store, known: set[Tombstone], key: ForgetKey, ids: ExternalIds) -> list[Person]:
    """Return the erased users whom anything names again."""
    hashes = {it.hash for it in known}
    found = {user for user in _named(store, ids) if key.hash(user) in hashes} if hashes else set()
    with store.connection() as connection:
        texts = external_ids(connection, "user", found)
    return [Person(user, texts.get(user)) for user in sorted(found)]


def _named(store: Store, ids: ExternalIds) -> Iterator[UUID]:
    hidden = hidden_places(store)
    for place in user_places(store):
        if place not in hidden:
            yield from users_in(store, place)
    for table in letter_tables(store):
        for page in all_letters(store, table):
            for letter in page:
                yield from named_in_letter(letter, ids)
