"""A bare binary COPY into the ledger: not a way in, but the ceiling that the benchmark compares with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.bench.sql import query as bench_query

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usage_worker.store.connection import Store

_TYPES = (
    *("uuid", "timestamptz", "text", "uuid", "uuid", "int4", "int8", "int8", "int8"),
    *("numeric", "int4", "bool", "uuid", "text", "numeric"),
)


def bare_copy(store: Store, rows: Iterable[tuple[Any, ...]]) -> None:
    """Append rows to the ledger and commit, with no regard to duplicates, counters or anything else.

    A row holds an event's values in the order of its fields, as `UUID`, `datetime`, `Decimal` and the like.
    """
    with (
        store.connection() as connection,
        connection.cursor() as cursor,
        cursor.copy(bench_query("copy_ledger_binary")) as copy,
    ):
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row(row)
