"""Totals of usage by day, user, agent and model, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from usage_worker.store.connection import dict_rows
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from datetime import date
    from uuid import UUID

    from usage_worker.postgres import Connection

Group = Literal["day", "user", "agent", "model"]
# The column of each group, in the order of the rows.
GROUPS: dict[Group, str] = {"day": "day", "user": "user_id", "agent": "agent_id", "model": "model"}


class Place(NamedTuple):
    """The place of a row in the order of all, after which the next page begins."""

    day: date
    user_id: UUID
    agent_id: UUID
    model: str


@dataclass(frozen=True, slots=True)
class TotalsQuery:
    """Which totals: those of UTC days `first` to `last`, of one user and agent or of all, grouped."""

    first: date
    last: date
    group_by: tuple[Group, ...]
    user_id: UUID | None = None
    agent_id: UUID | None = None
    after: Place | None = None


class TotalsPage(NamedTuple):
    """Rows in order, without the columns by which they are not grouped; `next` is None on the last page."""

    rows: list[dict[str, Any]]
    next: Place | None


def usage_totals(connection: Connection, wanted: TotalsQuery, most: int) -> TotalsPage:
    """Return up to `most` rows; the model comes from the ledger, everything else from the roll-up."""
    after = wanted.after or Place(None, None, None, None)  # type: ignore[arg-type]
    parameters = {
        "first": wanted.first,
        "last": wanted.last,
        "user_id": wanted.user_id,
        "agent_id": wanted.agent_id,
        **{f"by_{group}": group in wanted.group_by for group in ("day", "user", "agent")},
        **{f"after_{group}": value for group, value in zip(GROUPS, after, strict=True)},
        "rows": most + 1,
    }
    statement = query("usage_totals_by_model" if "model" in wanted.group_by else "usage_totals")
    rows = dict_rows(connection, statement, parameters)
    last = rows[most - 1] if len(rows) > most else None
    place = Place(last["day"], last["user_id"], last["agent_id"], last["model"]) if last else None
    left_out = [column for group, column in GROUPS.items() if group not in wanted.group_by]
    for row in rows:
        for column in left_out:
            del row[column]
    return TotalsPage(rows[:most], place)
