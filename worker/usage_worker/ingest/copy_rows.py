"""Events and totals as the rows that `store` copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usage_worker.events.columns import COLUMNS, KINDS, UNIT, Form
from usage_worker.ingest.event_array import RATING, UNKNOWN
from usage_worker.ingest.fold import NONE, TYPES
from usage_worker.store import copy_binary

if TYPE_CHECKING:
    from usage_worker.events.columns import Column
    from usage_worker.ingest.event_array import Events, TextTable
    from usage_worker.ingest.fold import Totals


def ledger_rows(events: Events, texts: TextTable, price_list: str | None) -> bytes:
    """Return events as rows of the ledger, in their order.

    Args:
        events: the events.
        texts: their texts.
        price_list: the source of the costs that no caller gave.
    """
    columns = [_ledger_column(events, column, texts) for column in COLUMNS]
    return copy_binary.rows(len(events), [*columns, _cost_source(events, price_list)])


def totals_rows(totals: Totals) -> bytes:
    """Return totals as rows of `batch_totals`."""
    *names, _ = TYPES
    arrays, elements = copy_binary.id_arrays(totals.rows["conversations"], totals.conversations)
    return copy_binary.rows(len(totals.rows), [*(_totals_column(totals, name) for name in names), arrays], elements)


def _ledger_column(events: Events, column: Column, texts: TextTable) -> copy_binary.Column:
    values = events[column.name]
    match column.form:
        case Form.KIND:
            return copy_binary.text(values, KINDS)
        case Form.TEXT:
            return copy_binary.text(values, texts.texts)
        case Form.DECIMAL:
            return copy_binary.numeric(np.divmod(np.maximum(values, 0), UNIT), values != UNKNOWN)
        case Form.NUMBER:
            return copy_binary.fixed(column.sql_type, values, values != UNKNOWN)
        case Form.UUID if column.name == "conversation_id":
            return copy_binary.fixed(column.sql_type, values, events["has_conversation"])
    return copy_binary.fixed(column.sql_type, values)


def _cost_source(events: Events, price_list: str | None) -> copy_binary.Column:
    """Return where the costs come from; NULL in ratings, which have none."""
    sources = np.where(events["cost_usd"] == UNKNOWN, 0, np.where(events["is_priced"], 2, 1))
    sources[events["type"] == RATING] = UNKNOWN
    return copy_binary.text(sources, ["unknown", "caller", price_list or ""])


def _totals_column(totals: Totals, name: str) -> copy_binary.Column:
    values = totals.rows[name]
    match TYPES[name]:
        case "numeric":
            known = totals.rows["rated_at"] != NONE if name == "rating" else None
            return copy_binary.numeric((values[:, 0], values[:, 1]), known)
        case "date" | "timestamptz" as sql_type:
            return copy_binary.fixed(sql_type, values, values != NONE)
    return copy_binary.fixed(TYPES[name], values)
