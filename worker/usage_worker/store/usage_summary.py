"""Totals of whole days of a time zone, by period, agent, user, model or provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from usage_worker.store.agents import agent_names
from usage_worker.store.external_ids import external_ids
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date
    from uuid import UUID

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

Grouping = Literal["", "hour", "day", "week", "month", "agent", "user", "model", "provider"]
"""How uses are grouped; empty: all in one row."""


@dataclass(frozen=True, slots=True)
class Days:
    """The days `first` to `last` of a time zone."""

    first: date
    last: date
    zone: str


def usage_summary(
    store: Store, days: Days, groupings: Sequence[Grouping], user_id: UUID | None = None
) -> dict[Grouping, list[dict[str, Any]]]:
    """Return the rows of `usage_summary()` for each grouping, all of the same moment, of one user or of all.

    Raises:
        DataRefusedError: of some of these days too little is known; the message names the first possible one.
    """
    rows: dict[Grouping, list[dict[str, Any]]] = {grouping: [] for grouping in groupings}
    parameters = {"first": days.first, "last": days.last, "zone": days.zone, "user_id": user_id}
    for row in store.rows(query("usage_summary"), groupings=list(groupings), **parameters):
        rows[row.pop("grouping")].append(row)
    return rows


def local_day(store: Store, zone: str) -> date:
    """Return the day of a time zone by the database's clock."""
    day: date = store.rows(query("local_day"), zone=zone)[0]["day"]
    return day


def names_of(connection: Connection, kind: Literal["agent", "user"], ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the names of agents that exist, and otherwise the application's own ids, where there are any."""
    names = external_ids(connection, kind, ids)
    if kind == "agent":
        names.update(agent_names(connection, ids))
    return names
