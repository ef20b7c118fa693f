"""Tombstones of erased users in PostgreSQL."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from usage_worker.errors import ForgetKeyError, LockHeldError
from usage_worker.events.tombstones import Tombstone
from usage_worker.store.holders import Holder, held_by
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from uuid import UUID

    from usage_worker.events.tombstones import ForgetKey
    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

_POLL_SECONDS = 0.05


def forgotten_among(connection: Connection, key: ForgetKey | None, users: Iterable[UUID]) -> set[UUID]:
    """Return those of the users who were erased.

    Raises:
        ForgetKeyError: some were erased with another key, so that nobody can tell.
    """
    _, has_table = connection.execute(query("look_for_forgotten")).fetchone() or (None, False)
    if not has_table:
        return set()
    are_any, are_others = connection.execute(query("forget_keys"), {"key_id": key and key.id}).fetchone() or ()
    if are_others or (are_any and not key):
        what = "another USAGE_FORGET_KEY" if key else "a USAGE_FORGET_KEY, which is not set here"
        raise ForgetKeyError(f"users were erased with {what}; set the same key for all workers and commands")
    if not are_any or not key:
        return set()
    hashes = {key.hash(user): user for user in users}
    return {hashes[row[0]] for row in connection.execute(query("forgotten_hashes"), {"hashes": list(hashes)})}


def tombstones(connection: Connection) -> set[Tombstone]:
    """Return every tombstone."""
    return {Tombstone(*row) for row in connection.execute(query("tombstones"))}


def add_tombstones(store: Store, added: Collection[Tombstone]) -> None:
    """Add tombstones; those that exist stay as they are."""
    hashes, key_ids = [it.hash for it in added], [it.key_id for it in added]
    with store.connection() as connection:
        connection.execute(query("add_tombstones"), {"hashes": hashes, "key_ids": key_ids})


def wait_for_batches(store: Store, timeout: float) -> None:
    """Wait until every transaction has ended that may have looked for tombstones before this moment.

    A batch looks before it writes anything of a user without a row, and keeps the lock of its look until its end. Those
    that look later find what is committed by now. Nobody waits for us.

    Raises:
        LockHeldError: one is still open after `timeout` seconds; the message names who has it.
    """
    deadline = time.monotonic() + timeout
    earlier: set[str] | None = None
    while True:
        readers = {row.pop("transaction"): row for row in store.rows(query("forgotten_readers"))}
        earlier = set(readers) if earlier is None else earlier & set(readers)
        if not earlier:
            return
        if time.monotonic() > deadline:
            held = held_by(Holder(**row) for transaction, row in readers.items() if transaction in earlier)
            raise LockHeldError(f"a batch or a correction is open for more than {timeout:g} s, {held}")
        time.sleep(_POLL_SECONDS)
