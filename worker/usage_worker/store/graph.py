"""The graph of agents: counts of pairs, which are kept by increments, and the relationships published of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg.rows import class_row

from usage_worker.store.connection import dict_rows
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store


class MembersUpdate(NamedTuple):
    """How many users the counts took anew, how many counts of pairs changed, and how many users are left out now."""

    users: int
    pairs: int
    left_out: int


class Published(NamedTuple):
    """What was published, and of how many users."""

    users: int
    used_with: int
    copies: int


class GraphState(NamedTuple):
    """When relationships were published last, and with which minimum of users."""

    computed_at: datetime
    min_users: int


class RelatedAgent(NamedTuple):
    """A relationship of an agent; `users` is rounded down to a multiple of 5, None where it is a copy."""

    rank: int
    agent_id: UUID
    name: str
    kind: str
    weight: float
    users: int | None


def update_pair_counts(store: Store, task: str) -> MembersUpdate:
    """Count the users again whose agents have changed, all in one transaction.

    Raises:
        BusyError: another process is at work on the graph.
    """
    with sole_transaction(store, task) as connection:
        connection.execute(query("analytics_lock_timeout"))
        users = connection.execute(query("graph_touched")).rowcount
        connection.execute(query("graph_changes"))
        pairs = connection.execute(query("graph_apply_changes")).rowcount
        connection.execute(query("graph_keep_members"))
        return MembersUpdate(users, pairs, _graph_users(connection)["left_out"])


def recount_pairs(store: Store, task: str) -> int:
    """Count all pairs again and repair the counts. Returns how many differed. Raises like `update_pair_counts`."""
    with sole_transaction(store, task) as connection:
        connection.execute(query("analytics_lock_timeout"))
        different = connection.execute(query("graph_differences")).rowcount
        connection.execute(query("graph_apply_changes"))
        return different


def publish_relationships(store: Store, task: str, min_users: int) -> Published | None:
    """Publish relationships and popularity of the counts, once a UTC day and after a change of the minimum.

    Returns:
        What was published; None if it was not due.

    Raises:
        BusyError: another process is at work on the graph.
        ReferenceMissingError: an agent was deleted meanwhile; try it again.
    """
    with sole_transaction(store, task) as connection:
        connection.execute(query("analytics_lock_timeout"))
        (due,) = dict_rows(connection, query("graph_is_due"), {"min_users": min_users})
        if not due["is_due"]:
            return None
        bounds = {"min_users": min_users, "users": _graph_users(connection)["counted"]}
        connection.execute(query("graph_clear"))
        used_with = connection.execute(query("graph_add_used_with"), bounds).rowcount
        copies = connection.execute(query("graph_add_copies")).rowcount
        connection.execute(query("graph_add_popularity"), bounds)
        connection.execute(query("graph_note"), bounds)
        return Published(bounds["users"], used_with, copies)


def graph_state(connection: Connection) -> GraphState | None:
    """Return when relationships were published last; None before the first time."""
    with connection.cursor(row_factory=class_row(GraphState)) as cursor:
        return cursor.execute(query("graph_state")).fetchone()


def related_agents(connection: Connection, agent: UUID, k: int) -> list[RelatedAgent]:
    """Return the strongest relationships of an agent to agents that the role sees."""
    with connection.cursor(row_factory=class_row(RelatedAgent)) as cursor:
        return cursor.execute(query("related_agents"), {"agent_id": agent, "k": k}).fetchall()


def _graph_users(connection: Connection) -> dict[str, int]:
    """Return how many users are `counted`, and how many `left_out` since they have too many agents."""
    (users,) = dict_rows(connection, query("graph_users"))
    return users
