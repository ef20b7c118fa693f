"""Events of erased users, which are never stored in any form: they are counted as quarantined, without a dead letter.

An erased user has no row in `user_agents`, so that the hash of a user is looked up only where a pair of the batch has
none, or where something is to become a dead letter.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Self
from uuid import UUID

import numpy as np

from usage_worker.events.external_ids import external_ids
from usage_worker.events.refusals import Refusal
from usage_worker.events.tombstones import ForgetKey
from usage_worker.ingest.deliveries import forgotten_in
from usage_worker.ingest.event_array import uuid_texts
from usage_worker.queue.letter_parts import named_in_letter, without
from usage_worker.store.forgotten import forgotten_among
from usage_worker.store.quarantine import DeadLetter

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.ingest.deliveries import Deliveries
    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.event_array import Events
    from usage_worker.settings import Settings
    from usage_worker.store.batch import BatchTransaction
    from usage_worker.store.connection import Store


class Forgotten:
    """Takes what names erased users out of batches."""

    def __init__(self, key: ForgetKey | None, ids: ExternalIds) -> None:
        self._key = key
        self._ids = ids

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return it with the key and the namespace of the settings."""
        return cls(forget_key_of(settings), external_ids(settings.id_namespace))

    def taken_out(self, transaction: BatchTransaction, deliveries: Deliveries, *, may_lack_pairs: bool) -> Deliveries:
        """Return the deliveries without events, dead letters and originals of ids of erased users.

        To be called before anything of them is stored. What this look does not find comes only of transactions for
        which an erasure waits before it begins. `forgotten` of an entry says how many events were taken out.

        Raises:
            ForgetKeyError: without the key nobody can tell which.
        """
        entries = deliveries.entries
        letters = [letter for entry in entries for letter in entry.dead_letters]
        is_changed = any(entry.forgotten for entry in entries)
        if may_lack_pairs or letters or is_changed:
            users = chain(_users_of(entry.events for entry in entries), self._named_in(letters))
            # A letter of many megabytes takes minutes to read. No row is locked yet that others need.
            with transaction.with_patience():
                if erased := transaction.forgotten(self._key, users):
                    for entry in entries:
                        is_changed |= self._take_out(entry, erased)
        # Another list: the batch must be built again.
        return deliveries._replace(entries=[*entries]) if is_changed else deliveries

    def among(self, transaction: BatchTransaction, events: Iterable[Events | np.void]) -> set[UUID]:
        """Return the erased users of events, given as arrays or one by one. Raises like `taken_out`."""
        return transaction.forgotten(self._key, _users_of(events))

    def quarantine(
        self, transaction: BatchTransaction, deliveries: Deliveries, letters: Sequence[DeadLetter], *, refused: int
    ) -> Counter[str]:
        """Insert dead letters without the events of erased users; return all quarantined events by reason.

        The last `refused` letters are of events that this transaction has refused, at which nobody has looked yet: of
        the others `taken_out` has. Raises like it.
        """
        forgotten = forgotten_in(deliveries)
        former, new = letters[: len(letters) - refused], letters[len(letters) - refused :]
        if new and (erased := transaction.forgotten(self._key, self._named_in(new))):
            new, taken = self._without(new, erased)
            forgotten += taken
        reasons = transaction.quarantine([*former, *new])
        if forgotten:
            reasons[Refusal.FORGOTTEN.text] += forgotten
        return reasons

    def _take_out(self, entry: DecodedEntry, erased: Collection[UUID]) -> bool:
        """Take erased users out of an entry; return whether it named any."""
        texts = {user.hex for user in erased}
        is_theirs = np.fromiter(
            (text in texts for text in uuid_texts(entry.events["user_id"])), bool, len(entry.events)
        )
        letters, taken = self._without(entry.dead_letters, erased)
        if letters == entry.dead_letters and not is_theirs.any():
            return False
        entry.forgotten += taken + int(is_theirs.sum())
        entry.events, entry.dead_letters = entry.events[~is_theirs], letters
        # Its other users and their conversations; agents are nobody's.
        needed = set(self._named_in(letters))
        for name in ("user_id", "conversation_id"):
            needed |= {UUID(text) for text in uuid_texts(entry.events[name])}
        entry.made = [it for it in entry.made if it.kind == "agent" or it.id in needed]
        return True

    def _without(self, letters: Iterable[DeadLetter], erased: Collection[UUID]) -> tuple[list[DeadLetter], int]:
        left, taken = [], 0
        for letter in letters:
            row = without(letter._asdict(), frozenset(erased), self._ids)
            # A producer may have said that an entry has fewer events than are left of it.
            taken += max(letter.events - (row["events"] if row else 0), 0)
            left += [DeadLetter(**row)] if row else []
        return left, taken

    def _named_in(self, letters: Iterable[DeadLetter]) -> Iterator[UUID]:
        for letter in letters:
            yield from named_in_letter(letter._asdict(), self._ids)


def _users_of(events: Iterable[Events | np.void]) -> Iterator[UUID]:
    # Only asked for where somebody was erased.
    for some in events:
        yield from map(UUID, set(uuid_texts(some["user_id"])))


def check_forget_key(store: Store, settings: Settings) -> None:
    """Check that USAGE_FORGET_KEY is the key with which users were erased here.

    Raises:
        ForgetKeyError: USAGE_FORGET_KEY is missing, or another one.
        UsageError: it cannot be asked.
    """
    with store.connection() as connection:
        forgotten_among(connection, forget_key_of(settings), ())


def forget_key_of(settings: Settings) -> ForgetKey | None:
    """Return the key of erasure, if it is set."""
    return ForgetKey(settings.forget_key) if settings.forget_key else None
