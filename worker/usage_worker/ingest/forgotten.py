"""Events of erased users, which are never stored in any form: they are counted as quarantined, without a dead letter.

An erased user has no row in `user_agents`, so that the hash of a user is looked up only where a pair of the batch has
none, or where something is to become a dead letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self
from uuid import UUID

import numpy as np

from usage_worker.events.external_ids import external_ids
from usage_worker.events.tombstones import ForgetKey
from usage_worker.ingest.event_array import uuid_texts
from usage_worker.postgres import translated
from usage_worker.queue.letter_parts import named_in_letter, without
from usage_worker.store import DeadLetter, forgotten_among

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.settings import Settings
    from usage_worker.store import BatchTransaction, Store


class Forgotten:
    """Takes what names erased users out of batches."""

    def __init__(self, key: ForgetKey | None, ids: ExternalIds) -> None:
        self._key = key
        self._ids = ids

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return it with the key and the namespace of the settings."""
        return cls(_key_of(settings), external_ids(settings.id_namespace))

    def take_out(self, transaction: BatchTransaction, entries: Sequence[DecodedEntry]) -> bool:
        """Take out events, dead letters and originals of ids; `forgotten` of an entry says how many events.

        Returns whether entries lack events, also those that an earlier attempt took out.

        Raises:
            ForgetKeyError: without the key nobody can tell which.
        """
        users = {UUID(text) for entry in entries for text in set(uuid_texts(entry.events["user_id"]))}
        letters = [letter for entry in entries for letter in entry.dead_letters]
        if erased := transaction.forgotten(self._key, users | self._named_in(letters)):
            for entry in entries:
                self._take_out(entry, erased)
        return any(entry.forgotten for entry in entries)

    def letters_without(
        self, transaction: BatchTransaction, letters: Sequence[DeadLetter]
    ) -> tuple[list[DeadLetter], int]:
        """Return dead letters without the events of erased users, and the number of these events. Raises likewise."""
        erased = transaction.forgotten(self._key, self._named_in(letters))
        return self._without(letters, erased) if erased else (list(letters), 0)

    def _take_out(self, entry: DecodedEntry, erased: Collection[UUID]) -> None:
        texts = {user.hex for user in erased}
        is_theirs = np.fromiter(
            (text in texts for text in uuid_texts(entry.events["user_id"])), bool, len(entry.events)
        )
        letters, taken = self._without(entry.dead_letters, erased)
        taken += int(is_theirs.sum())
        if not taken:
            return
        entry.forgotten += taken
        entry.events, entry.dead_letters = entry.events[~is_theirs], list(letters)
        # Its other users and their conversations; agents are nobody's.
        needed = self._named_in(letters)
        for name in ("user_id", "conversation_id"):
            needed |= {UUID(text) for text in uuid_texts(entry.events[name])}
        entry.made = [it for it in entry.made if it.kind == "agent" or it.id in needed]

    def _without(self, letters: Iterable[DeadLetter], erased: Collection[UUID]) -> tuple[list[DeadLetter], int]:
        left, taken = [], 0
        for letter in letters:
            row = without(letter._asdict(), frozenset(erased), self._ids)
            taken += letter.events - (row["events"] if row else 0)
            left += [DeadLetter(**row)] if row else []
        return left, taken

    def _named_in(self, letters: Iterable[DeadLetter]) -> set[UUID]:
        return {user for letter in letters for user in named_in_letter(letter._asdict(), self._ids)}


def require_forget_key(store: Store, settings: Settings) -> None:
    """Check that this process knows whom the database has erased; give up soon where it does not answer.

    Raises:
        ForgetKeyError: USAGE_FORGET_KEY is missing, or another one.
        UsageError: it cannot be asked.
    """
    with translated(), store.connection() as connection:
        forgotten_among(connection, _key_of(settings), ())


def _key_of(settings: Settings) -> ForgetKey | None:
    return ForgetKey(settings.forget_key) if settings.forget_key else None
