"""The time of a query that a user waits for, as the role `authenticated` under row-level security."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any

from usage_worker.bench.sql import query as bench_query
from usage_worker.store.access import act_as_user

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store


@dataclass(frozen=True, slots=True)
class QueryTiming:
    """The timing of one query over many users.

    Attributes:
        p50_ms: milliseconds until all rows have arrived, half of the users wait less.
        p95_ms: likewise for 95 of 100 users.
        rows: the mean number of rows.
        plan: how `user_agents` is scanned, and by which indexes.
    """

    p50_ms: float
    p95_ms: float
    rows: float
    plan: str


def time_query(store: Store, name: str, users: Sequence[UUID], parameters: Mapping[str, Any]) -> QueryTiming:
    """Run a named query once for each user.

    Opening the transaction and signing in are not timed. Parsing and planning are, because clients over HTTP have no
    prepared statements.

    Args:
        store: the database.
        name: the query's name; its parameter `user_id` is the user.
        users: at least two; the plan is that of the first.
        parameters: the query's other parameters.
    """
    milliseconds, rows = zip(*(_run(store, name, user, parameters) for user in users), strict=True)
    percentiles = quantiles(milliseconds, n=100, method="inclusive")
    return QueryTiming(percentiles[49], percentiles[94], fmean(rows), _explain(store, name, users[0], parameters))


def _run(store: Store, name: str, user_id: UUID, parameters: Mapping[str, Any]) -> tuple[float, int]:
    with signed_in(store, user_id) as connection:
        started = time.perf_counter()
        rows = connection.execute(bench_query(name), {**parameters, "user_id": user_id}, prepare=False).fetchall()
        return 1000 * (time.perf_counter() - started), len(rows)


def _explain(store: Store, name: str, user_id: UUID, parameters: Mapping[str, Any]) -> str:
    """Return the scan of the table and the indexes that it uses, in one line."""
    with signed_in(store, user_id) as connection:
        explain = "EXPLAIN (FORMAT JSON) " + bench_query(name)
        row = connection.execute(explain, {**parameters, "user_id": user_id}, prepare=False).fetchone()
    nodes = list(_nodes(row[0][0]["Plan"])) if row else []
    scan = next(node["Node Type"] for node in nodes if "Relation Name" in node)
    indexes = " and ".join(node["Index Name"] for node in nodes if "Index Name" in node)
    return f"{scan} using {indexes}" if indexes else scan


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan's nodes from the top, without the subqueries of the policies, which scan other tables."""
    yield node
    for child in node.get("Plans", ()):
        if child["Parent Relationship"] not in {"InitPlan", "SubPlan"}:
            yield from _nodes(child)


@contextmanager
def signed_in(store: Store, user_id: UUID) -> Iterator[Connection]:
    with store.connection() as connection:
        act_as_user(connection, user_id)
        yield connection
