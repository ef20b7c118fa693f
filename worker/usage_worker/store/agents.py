"""Agents by id and by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import ArgumentError, DataRefusedError
from usage_worker.postgres import translated
from usage_worker.store.external_ids import id_of
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from usage_worker.postgres import Connection


def agent_names(connection: Connection, ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the names of those agents that the role sees."""
    return dict(connection.execute(query("agent_names"), {"ids": list(ids)}).fetchall())


def require_agent(connection: Connection, text: str) -> tuple[UUID, str | None]:
    """Return the agent that a UUID, an application's own id or a name means, with its name.

    Returns:
        The UUID, and the name; None for the name where the role does not see the agent, as one that was deleted.

    Raises:
        ArgumentError: there is no such agent, or more than one has the name.
    """
    uuid = id_of(connection, "agent", text)
    found = agent_names(connection, [uuid] if uuid else [])
    found = found or _agents_named(connection, text)
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        raise ArgumentError(f"more than one agent is called {text!r}: use its id")
    if uuid:
        return uuid, None
    raise ArgumentError(f"there is no agent {text!r}")


def _agents_named(connection: Connection, name: str) -> dict[UUID, str]:
    try:
        with translated():
            return dict(connection.execute(query("agents_named"), {"name": name}).fetchall())
    except DataRefusedError:  # half a surrogate pair, U+0000: no agent can have it
        return {}
