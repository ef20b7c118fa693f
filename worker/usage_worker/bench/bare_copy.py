"""A binary COPY into the ledger, which the benchmark measures as the ceiling; ingest does not use it."""

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
