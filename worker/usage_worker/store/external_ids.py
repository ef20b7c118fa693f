"""The application's own ids, and the namespace in which UUIDs are made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.events.external_ids import ExternalId
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


def external_ids(store: Store, kind: str, ids: Iterable[UUID]) -> dict[UUID, str]:
    """Return the application's own ids of those UUIDs of a kind that were made from one."""
    rows = store.rows(query("external_ids"), kind=kind, ids=list(ids))
    return {row["id"]: row["external_id"] for row in rows}


def id_of(store: Store, kind: str, external_id: str) -> UUID | None:
    """Return the UUID of an application's own id; None where no event has named it."""
    for row in store.rows(query("id_of_external_id"), kind=kind, external_id=external_id):
        found: UUID = row["id"]
        return found
    return None


def kept_namespace(store: Store) -> UUID | None:
    """Return the namespace of this installation, None where none is kept yet."""
    for row in store.rows(query("id_namespace")):
        namespace: UUID = row["namespace"]
        return namespace
    return None


def keep_namespace(store: Store, namespace: UUID) -> UUID:
    """Keep the namespace of this installation if none is kept yet; return the one that is kept."""
    with store.connection() as connection:
        kept = connection.execute(query("id_namespace")).fetchone()
        if not kept:
            connection.execute(query("keep_id_namespace"), {"namespace": namespace})
            kept = connection.execute(query("id_namespace")).fetchone()
    return kept[0] if kept else namespace


def delete_ownerless_ids(store: Store, task: str) -> int:
    """Delete the ids of what no longer exists, unless a dead letter needs them. Returns the number deleted."""
    with sole_transaction(store, task) as connection:
        return connection.execute(query("delete_ownerless_external_ids")).rowcount


def _unknown(connection: Connection, rows: Sequence[ExternalId]) -> list[ExternalId]:
    """Return the ids that are not kept as they are given."""
    return [ExternalId(*row) for row in connection.execute(query("unknown_external_ids"), _columns(rows))]


def _columns(rows: Sequence[ExternalId]) -> dict[str, list[object]]:
    kinds, ids, texts = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return {"kinds": kinds, "ids": ids, "external_ids": texts}
