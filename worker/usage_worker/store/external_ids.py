"""The application's own ids, and the namespace in which UUIDs are made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import ArgumentError, DataRefusedError
from usage_worker.events.external_ids import ExternalId, parse_uuid, uuids_in
from usage_worker.postgres import translated
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store


def keep_external_ids(connection: Connection, rows: Sequence[ExternalId]) -> list[ExternalId]:
    """Keep ids in the open transaction; those that are kept already are looked up and not written.

    Returns:
        The ids that are left out, because their UUID is kept with another id, or their id with another UUID: they were
        made in another namespace.
    """
    unknown = _unknown(connection, rows)
    if not unknown:
        return []
    kept = connection.execute(query("keep_external_ids"), _columns(unknown)).rowcount
    # A statement of its own: what another batch has just committed is visible only to the next one.
    return [] if kept == len(set(unknown)) else _unknown(connection, unknown)


def external_ids(connection: Connection, kind: str, ids: Iterable[UUID]) -> dict[UUID, str]:
    """Return the application's own ids of those UUIDs of a kind that were made from one."""
    return dict(connection.execute(query("external_ids"), {"kind": kind, "ids": list(ids)}).fetchall())


def external_ids_in(store: Store, text: str) -> dict[str, dict[UUID, str]]:
    """Return the application's own ids of the UUIDs that stand in a text, by kind."""
    found: dict[str, dict[UUID, str]] = {}
    for row in store.rows(query("external_ids_of_any_kind"), ids=sorted(uuids_in(text))):
        found.setdefault(row["kind"], {})[row["id"]] = row["external_id"]
    return found


def id_of(connection: Connection, kind: str, text: str) -> UUID | None:
    """Return the UUID of a UUID in any notation, or of an application's own id; None where no event has named it."""
    if uuid := parse_uuid(text):
        return uuid
    try:
        with translated():
            row = connection.execute(query("id_of_external_id"), {"kind": kind, "external_id": text}).fetchone()
    except DataRefusedError:  # half a surrogate pair, U+0000: no event may have it
        return None
    return row[0] if row else None


def require_id(store: Store, kind: str, text: str) -> UUID:
    """Return the UUID of a UUID in any notation, or of an application's own id.

    Raises:
        ArgumentError: no event has named it.
    """
    with store.connection() as connection:
        uuid = id_of(connection, kind, text)
    if uuid is None:
        raise ArgumentError(f"no event has named the {kind} {text!r}")
    return uuid


def kept_namespace(connection: Connection) -> UUID | None:
    """Return the namespace of this installation, None where none is kept yet."""
    row = connection.execute(query("id_namespace")).fetchone()
    return row[0] if row else None


def keep_namespace(store: Store, namespace: UUID) -> UUID:
    """Keep the namespace of this installation if none is kept yet; return the one that is kept."""
    with store.connection() as connection:
        kept = kept_namespace(connection)
        if not kept:
            connection.execute(query("keep_id_namespace"), {"namespace": namespace})
            kept = kept_namespace(connection)
    return kept or namespace


def delete_ownerless_ids(store: Store, task: str) -> int:
    """Delete the ids of what no longer exists, unless a dead letter needs them. Returns the number deleted.

    Deletes only those of conversations where users or agents may be hidden from this role.
    """
    with sole_transaction(store, task) as connection:
        sees_all = connection.execute(query("sees_all_parents")).fetchone() == (True,)
        ownerless = query("ownerless_ids") if sees_all else query("ownerless_conversation_ids")
        return connection.execute(ownerless + "\n" + query("delete_ownerless_ids")).rowcount


def _unknown(connection: Connection, rows: Sequence[ExternalId]) -> list[ExternalId]:
    """Return the ids that are not kept as they are given."""
    found = connection.execute(query("unknown_external_ids"), _columns(rows))
    return [ExternalId(kind, uuid, external_id) for kind, uuid, external_id in found]


def _columns(rows: Sequence[ExternalId]) -> dict[str, list[object]]:
    kinds, ids, texts = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return {"kinds": kinds, "ids": ids, "external_ids": texts}
