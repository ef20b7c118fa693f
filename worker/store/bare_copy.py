"""A bare binary COPY into the ledger: not a way in, but the ceiling that the benchmark compares with."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.events import Record
    from worker.store.connection import Store

_TYPES = (
    *("uuid", "timestamptz", "text", "uuid", "uuid", "int4", "int8", "int8", "int8"),
    *("numeric", "int4", "bool", "uuid", "text", "numeric"),
)
_READERS: dict[str, Any] = {"uuid": UUID, "timestamptz": datetime.fromisoformat, "numeric": Decimal}


def binary_row(record: Record) -> tuple[Any, ...]:
    """The values as the driver's binary protocol wants them."""
    return tuple(
        value if value is None or kind not in _READERS else _READERS[kind](value)
        for kind, value in zip(_TYPES, record, strict=True)
    )


def bare_copy(store: Store, rows: Iterable[tuple[Any, ...]]) -> None:
    """Append rows to the ledger and commit, with no regard to duplicates, counters or anything else."""
    with (
        store.connection() as connection,
        connection.cursor() as cursor,
        cursor.copy(query("copy_ledger_binary")) as copy,
    ):
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row(row)
