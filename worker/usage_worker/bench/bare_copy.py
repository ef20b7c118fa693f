"""The ceiling: a binary COPY of Python values into the ledger, and nothing else."""

from __future__ import annotations

import gc
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from usage_worker.bench.sql import query as bench_query
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usage_worker.store.connection import Store

_TYPES = (
    *("uuid", "timestamptz", "text", "uuid", "uuid", "int4", "int8", "int8", "int8"),
    *("numeric", "int4", "bool", "uuid", "text", "numeric"),
)


def measure_ceiling(store: Store, events: list[dict[str, Any]], *, prepared: bool) -> float:
    """Return the seconds of a binary COPY of the events into the ledger, and of nothing else.

    Args:
        store: the database.
        events: what `Load.generate` yields.
        prepared: whether the rows are made before the clock starts. Otherwise it starts with the events, as it does
            for the other paths, and the bound is less strict.
    """
    now = datetime.now(UTC)
    rows: Iterable[tuple[Any, ...]] = (_ledger_row(event, now) for event in events)
    rows = list(rows) if prepared else rows
    store.rows(query("ensure_day"), day=now.date())
    gc.freeze()  # otherwise the garbage collector would traverse all events again and again
    started = time.monotonic()
    _copy(store, rows)
    return time.monotonic() - started


def _copy(store: Store, rows: Iterable[tuple[Any, ...]]) -> None:
    """Append rows to the ledger and commit, without deduplication, counters or checks.

    Args:
        store: the database.
        rows: each with the values of the ledger's columns in their order, as `UUID`, `datetime`, `Decimal` and so on.
    """
    with (
        store.connection() as connection,
        connection.cursor() as cursor,
        cursor.copy(bench_query("copy_ledger_binary")) as copy,
    ):
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row(row)


def _ledger_row(event: dict[str, Any], now: datetime) -> tuple[Any, ...]:
    """Return the values of the ledger's columns, adding an identity, a time and the sum of the tokens."""
    input_tokens, output_tokens = event["input_tokens"], event["output_tokens"]
    return (
        *(uuid7(), now, "usage", event["user_id"], event["agent_id"], event["messages"]),
        *(input_tokens, output_tokens, input_tokens + output_tokens, event["cost_usd"], event["response_time_ms"]),
        *(event["success"], event["conversation_id"], event["model"], None),
    )
