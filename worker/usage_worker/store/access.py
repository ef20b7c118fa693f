"""Whose rights a transaction has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.store.queries import query

if TYPE_CHECKING:
    from uuid import UUID

    from usage_worker.postgres import Connection


def act_as_user(connection: Connection, user: UUID) -> None:
    """Take the rights of a user until the transaction ends.

    Raises:
        RoleError: our role may not do that.
    """
    connection.execute(query("act_as_user"), {"user_id": user})
