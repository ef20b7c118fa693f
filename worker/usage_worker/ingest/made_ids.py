"""The originals of ids that an entry carries, and those that the worker makes itself, until they are kept.

What an entry says is never trusted: events are exact by their UUIDs, so that originals which do not become these are
left out, and whatever is wrong with them stops no event.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from usage_worker.events.external_ids import KINDS
from usage_worker.logs import get_logger
from usage_worker.postgres import OUTAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usage_worker.events.external_ids import ExternalId, ExternalIds, Kind
    from usage_worker.ingest.held_rows import HeldRows
    from usage_worker.store.batch import BatchTransaction

log = get_logger("ingest")

# Of the entry, and of three ids of an event whose every character JSON escapes. For 500 events our publisher writes
# 30 to 60 kB.
MAX_IDS_BYTES = 2**24
_EVENT_BYTES = 5_000
_OTHER_UUID = "an original does not become the UUID that its publisher made; is USAGE_ID_NAMESPACE the same?"
_DECODE = msgspec.json.Decoder(dict[str, dict[str, str]]).decode


def read_made_ids(field: bytes, ids: ExternalIds, most: int) -> tuple[list[ExternalId], str]:
    """Read the field `ids` of an entry; return what becomes the UUIDs that it says, and why the rest is left out.

    Args:
        field: as `write_ids` writes it.
        ids: what numbers and texts become UUIDs with.
        most: the number of events in the entry: it cannot have more ids of a kind.
    """
    if len(field) > min(MAX_IDS_BYTES, _EVENT_BYTES * most):
        return [], f"{len(field)} bytes are too many for {most} events"
    try:
        kinds = _DECODE(field)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return [], str(error)
    if any(len(originals) > most for originals in kinds.values()):
        return [], "more ids than events"
    read = [_read(ids, kind, digits, text) for kind in KINDS for digits, text in kinds.get(kind, {}).items()]
    made = [external for external in read if external]
    return made, "" if len(made) == len(read) else _OTHER_UUID


def keep_ids(transaction: BatchTransaction, made: Iterable[ExternalId], held: HeldRows) -> Sequence[ExternalId]:
    """Keep the originals of ids, and log how many are left out; return those that others are inserting.

    These are left to the next batch that names them.

    Raises:
        LockHeldError: as `HeldRows.insert`; or somebody holds the whole table, and nobody else would write these ids.
    """
    originals = [*{external.id.int: external for external in made}.values()]
    if originals and held.mode:
        # First: it locks the table as an insert does, to the end of the transaction. What waits then, waits for rows.
        transaction.check_external_ids()
        # By the names of their kinds, so that agents and conversations come before users: an application may be
        # registering thousands of users, at which the search for held ids ends. A conversation may have no later event.
        originals.sort(key=attrgetter("kind"))
    left_out: list[int] = []
    waiting = held.insert(transaction, lambda part: left_out.append(_keep(transaction, part)), originals, "ids")
    if ids := sum(left_out):
        log.warning("originals of ids are not kept: the database has others, or refuses them", ids=ids)
    return waiting


def _keep(transaction: BatchTransaction, made: Sequence[ExternalId]) -> int:
    """Keep the originals of ids; return how many are left out: others have their UUIDs, or PostgreSQL refuses them.

    Those that it refuses, as where the encoding of the database lacks a character, are found by halving.
    """
    try:
        with transaction.savepoint():
            return len(transaction.keep_external_ids(made))
    except OUTAGES:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, the events are exact without it
        middle = len(made) // 2
        return _keep(transaction, made[:middle]) + _keep(transaction, made[middle:]) if middle else 1


def _read(ids: ExternalIds, kind: Kind, digits: str, text: str) -> ExternalId | None:
    try:
        external = ids.of_text(kind, text)
    except ValueError:
        return None
    return external if external.external_id and external.id.hex == digits else None
