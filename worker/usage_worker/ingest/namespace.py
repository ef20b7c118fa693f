"""The namespace of an installation's ids: the database keeps the first one, and nothing is counted with another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import NamespaceError
from usage_worker.store.external_ids import keep_namespace, kept_namespace
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from uuid import UUID

    from usage_worker.store.connection import Store


class Namespace:
    """The namespace of a worker, which the database is asked to keep before the first id is."""

    def __init__(self, store: Store, namespace: UUID) -> None:
        self._store = store
        self._namespace = namespace
        self._is_kept = False

    def keep(self) -> None:
        """Let the database keep the namespace, once for each process.

        Raises:
            NamespaceError: it keeps another one.
        """
        if not self._is_kept:
            _require(self._namespace, keep_namespace(self._store, self._namespace))
            self._is_kept = True


def require_namespace(store: Store, namespace: UUID) -> None:
    """Check that the database keeps no other namespace; give up soon where it does not answer.

    Raises:
        NamespaceError: it does.
        UsageError: it cannot be asked.
    """
    # Outside the pool, which would try again for five seconds.
    with store.session() as connection, connection.transaction():
        connection.execute(query("give_up_soon"))
        _require(namespace, kept_namespace(connection))


def _require(namespace: UUID, kept: UUID | None) -> None:
    if kept not in (None, namespace):
        raise NamespaceError(
            f"USAGE_ID_NAMESPACE is {namespace}, and this database has ids of {kept}; set USAGE_ID_NAMESPACE={kept} for"
            " publishers and workers, or delete the row of usage_id_namespace while usage_external_ids is empty"
        )
