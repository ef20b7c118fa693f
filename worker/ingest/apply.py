"""One batch, one transaction: what the design calls exactly once happens here.

Whatever fails, the transaction as a whole is undone and the entries stay in the stream; whatever is tried twice, the
ledger's primary key counts it once.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Literal

from worker.errors import ConcurrencyError, DataRefusedError, SettingsError
from worker.fold import fold
from worker.ingest.entries import payload_of
from worker.store import Intake, batch_transaction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from worker.events import Record
    from worker.fold import Folded, Pair
    from worker.ingest.entries import Entry
    from worker.store import BatchTransaction, DeadLetter, Identity, Store

Unknown = Literal["quarantine", "create"]
Refused = dict["Identity", str]

MAX_ATTEMPTS = 8


def apply_batch(store: Store, entries: Sequence[Entry], unknown: Unknown) -> Intake:
    """Count the entries of one shard.

    Raises:
        ConcurrencyError: the transaction lost `MAX_ATTEMPTS` races; try the batch again later.
        StoreUnavailableError: nothing is known to be committed; try the batch again later.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            with batch_transaction(store) as transaction:
                return _count(transaction, entries, unknown)
        except ConcurrencyError:
            if attempt == MAX_ATTEMPTS:
                raise
            # Jitter, so that two workers that lost to each other do not meet again.
            time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311
    raise AssertionError("unreachable")


def _count(transaction: BatchTransaction, entries: Sequence[Entry], unknown: Unknown) -> Intake:
    first_seen = transaction.register_entries(entry.key for entry in entries)
    known = transaction.known({(r.event_id, r.occurred_at) for entry in entries for r in entry.records})
    fresh, duplicate = _without_duplicates(entries, first_seen, known)
    # By event id: two batches with common events then wait for each other instead of deadlocking.
    fresh.sort(key=lambda record: record.event_id.int)
    refused: Refused = {}
    if fresh:
        _count_records(transaction, fresh, unknown, refused)
    quarantined = transaction.quarantine(_letters(entries, refused))
    applied = len(fresh) - len(refused)
    intake = Intake(applied + duplicate + quarantined, applied, duplicate, quarantined)
    transaction.book(entries[0].stream, intake)
    return intake


def _without_duplicates(
    entries: Sequence[Entry], first_seen: set[UUID], known: set[Identity]
) -> tuple[list[Record], int]:
    """The records to count, and how many are duplicates.

    What an entry brought when it was delivered before is in the books already, so a second delivery's duplicates are
    left out of them; its events that have no identity of their own must then be left out, too. The same holds for a
    pack that was sent twice and lies twice in this batch.
    """
    fresh: dict[Identity, Record] = {}
    duplicate = 0
    for entry in entries:
        new = entry.key in first_seen
        for record in entry.records:
            identity = record.event_id, record.occurred_at
            if identity in known or identity in fresh:
                duplicate += new
            elif new or record.event_id not in entry.anonymous:
                fresh[identity] = record
        first_seen.discard(entry.key)
    return list(fresh.values()), duplicate


def _count_records(transaction: BatchTransaction, records: list[Record], unknown: Unknown, refused: Refused) -> None:
    """Count the records; those that PostgreSQL refuses are found by halving, and only they are refused."""
    try:
        with transaction.savepoint():
            _write(transaction, records, unknown, refused)
    except DataRefusedError as error:
        for record in records:
            refused.pop((record.event_id, record.occurred_at), None)
        if len(records) == 1:
            refused[records[0].event_id, records[0].occurred_at] = str(error)
            return
        middle = len(records) // 2
        _count_records(transaction, records[:middle], unknown, refused)
        _count_records(transaction, records[middle:], unknown, refused)


def _write(transaction: BatchTransaction, records: list[Record], unknown: Unknown, refused: Refused) -> None:
    folded = fold(records)
    strangers = _resolve(transaction, folded, unknown)
    if strangers:
        for record in records:
            if reason := strangers.get((record.user_id, record.agent_id)):
                refused[record.event_id, record.occurred_at] = reason
        records = [record for record in records if (record.user_id, record.agent_id) not in strangers]
        folded = {day: {p: t for p, t in pairs.items() if p not in strangers} for day, pairs in folded.items()}
    for day, totals in folded.items():
        if not totals:
            continue
        transaction.clear_staging()
        opened = transaction.insert_conversations(totals)
        if transaction.apply_totals(day, totals, opened) != len(totals):
            raise ConcurrencyError("a row of user_agents was deleted meanwhile")
    transaction.write_ledger(records)


def _resolve(transaction: BatchTransaction, folded: Folded, unknown: Unknown) -> dict[Pair, str]:
    """Make the missing rows; the pairs for which that is impossible are returned, with the reason."""
    missing = transaction.missing({pair for pairs in folded.values() for pair in pairs})
    if not missing:
        return {}
    strangers: dict[Pair, str] = {}
    absent = [row for row in missing if not (row.user_exists and row.agent_exists)]
    if absent and unknown == "create":
        if not transaction.owns_auth():
            raise SettingsError("USAGE_UNKNOWN=create is not for a platform that owns auth.users; unset it")
        transaction.create_parents(
            {row.user_id for row in absent if not row.user_exists},
            {row.agent_id for row in absent if not row.agent_exists},
        )
    else:
        strangers = {
            (row.user_id, row.agent_id): "agent_id: no such agent" if row.user_exists else "user_id: no such user"
            for row in absent
        }
    present = [(row.user_id, row.agent_id) for row in missing if (row.user_id, row.agent_id) not in strangers]
    if present:
        transaction.insert_pairs(present)
    return strangers


def _letters(entries: Sequence[Entry], refused: Refused) -> list[DeadLetter]:
    letters = [letter for entry in entries for letter in entry.letters]
    if refused:
        reasons = dict(refused)
        for entry in entries:
            for position, record in zip(entry.positions, entry.records, strict=True):
                # Popped: a duplicate of a refused event is a duplicate, not a second letter.
                if reason := reasons.pop((record.event_id, record.occurred_at), None):
                    letters.append(entry.refuse(position, reason, payload_of(record)))
    return letters
