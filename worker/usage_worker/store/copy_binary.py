"""Rows of COPY's binary format, written column by column (PostgreSQL manual, COPY, "Binary Format").

A cell is its length and its value, both big-endian; NULL is the length -1 alone. Every cell is put at its place in the
output, which follows from the lengths of all cells before it: 6 ns a cell, where a matrix of the widest row of which a
mask selects the bytes takes 2.5 ns a byte, and memory for the longest text in every row.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from usage_worker.events.columns import DECIMALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Places = npt.NDArray[np.intp]

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""What precedes the rows of one COPY."""
TRAILER: Final = b"\xff\xff"
"""What follows them."""

_FORMS: Final[dict[str, tuple[Any, ...]]] = {
    "uuid": (">u8", (2,)),
    "timestamptz": (">i8",),
    "date": (">i4",),
    "integer": (">i4",),
    "bigint": (">i8",),
    "boolean": ("u1",),
}
# PostgreSQL counts from 2000-01-01, in days and in microseconds.
_DAYS = 10_957
_EPOCHS = {"date": _DAYS, "timestamptz": _DAYS * 86_400_000_000}
_NULL = np.array(-1, ">i4")
_UUID_OID = 2950
# Digits of a numeric are of base 10,000 (numeric_recv in src/backend/utils/adt/numeric.c, which strips leading zeros);
# three hold the decimals, the last one also two zeros.
_BASE = 10_000
_DECIMAL_DIGITS = 3
_LAST_DIGIT_UNIT = 100


class Part(NamedTuple):
    """Cells of one size, and the rows that have them; None: all rows."""

    cells: Array
    rows: Places | None = None


Column = list[Part]
"""A column of cells; its parts have each row once."""


class Elements(NamedTuple):
    """The elements of the last column, an array: the number that each row has, and all of them in the rows' order."""

    counts: Array
    cells: Array


def fixed(sql_type: str, values: Array, known: npt.NDArray[np.bool_] | None = None) -> Column:
    """Return a column of a type that has one size; the cells that are not `known` are NULL.

    Ids are two words each, times microseconds since 1970, dates days since 1970.
    """
    epoch = _EPOCHS.get(sql_type)
    return _nullable(_cells(values if epoch is None else values - epoch, *_FORMS[sql_type]), known)


def numeric(values: tuple[Array, Array], known: npt.NDArray[np.bool_] | None = None) -> Column:
    """Return a column of numerics from 0 on: whole ones, and less than one in units of the last decimal."""
    whole, units = values
    if known is not None and not known.any():
        return [Part(_nulls(len(known)))]
    largest, before = int(whole.max(initial=0)), 1
    while largest >= _BASE**before:
        before += 1
    digits = np.empty((len(whole), 4 + before + _DECIMAL_DIGITS), ">i2")
    # Number of digits, weight of the first one, sign, decimals.
    digits[:, :4] = (before + _DECIMAL_DIGITS, before - 1, 0, DECIMALS)
    rest, last = np.divmod(units, _LAST_DIGIT_UNIT)
    digits[:, -1] = last * _LAST_DIGIT_UNIT
    digits[:, -2], digits[:, -3] = rest % _BASE, rest // _BASE
    for place in range(3 + before, 3, -1):
        whole, digits[:, place] = np.divmod(whole, _BASE)
    return _nullable(_cells(digits, ">i2", digits.shape[1:]), known)


def text(numbers: Array, texts: Sequence[str]) -> Column:
    """Return a column of texts, given by their numbers; -1 is NULL."""
    used = np.zeros(len(texts) + 1, bool)
    used[numbers] = True
    by_size: dict[int, list[tuple[int, bytes]]] = {}
    for number in np.flatnonzero(used).tolist():
        value = texts[number].encode() if number < len(texts) else None
        cell = _NULL.tobytes() if value is None else len(value).to_bytes(4, "big") + value
        by_size.setdefault(len(cell), []).append((number, cell))
    sizes, places = np.zeros(len(used), np.int32), np.zeros(len(used), np.int32)
    tables = []
    for size, cells in by_size.items():
        own = [number for number, _ in cells]
        sizes[own], places[own] = size, np.arange(len(own))
        tables.append(np.frombuffer(b"".join(cell for _, cell in cells), f"V{size}"))
    if len(tables) == 1:
        return [Part(tables[0].take(places[numbers]))]
    size_of_row = sizes[numbers]
    parts: Column = []
    for table in tables:
        rows = np.flatnonzero(size_of_row == table.itemsize)
        parts.append(Part(table.take(places[numbers[rows]]), rows))
    return parts


def id_arrays(counts: Array, ids: Array) -> tuple[Column, Elements]:
    """Return a column of uuid[], which must be the last one; a row without ids has NULL."""
    # Length, dimensions, flags, type of the elements, their number, number of the first (array_recv).
    heads = np.empty((len(counts), 6), ">i4")
    heads[:] = (0, 1, 0, _UUID_OID, 0, 1)
    heads[:, 0], heads[:, 4] = 20 + 20 * counts, counts
    known = counts > 0
    return _nullable(_void(heads), known), Elements(counts, _cells(ids, *_FORMS["uuid"]))


def rows(count: int, columns: Sequence[Column], elements: Elements | None = None) -> bytes:
    """Return so many rows, which have these columns in this order."""
    if not count:
        return b""
    number = [Part(_void(np.full((count, 1), len(columns), ">i2")))]
    columns = _merged([number, *columns])
    sizes = np.zeros(count, np.intp)
    for column in columns:
        _add_sizes(sizes, column)
    if elements:
        sizes += elements.cells.itemsize * elements.counts
    places = np.cumsum(sizes) - sizes
    out = np.empty(int(sizes.sum()), np.uint8)
    for column in columns:
        for part in column:
            _put(out, places if part.rows is None else places[part.rows], part.cells)
        _add_sizes(places, column)
    if elements:
        before = np.cumsum(elements.counts) - elements.counts
        size = elements.cells.itemsize
        starts = np.repeat(places - size * before, elements.counts) + size * np.arange(len(elements.cells))
        _put(out, starts, elements.cells)
    return out.tobytes()


def _merged(columns: Sequence[Column]) -> list[Column]:
    """Return adjacent columns of one size as one column: half the time of putting each at its place."""
    merged = []
    for are_whole, group in groupby(columns, lambda column: column[0].rows is None):
        own = list(group)
        if are_whole:
            parts = [column[0].cells for column in own]
            cells = np.empty(len(parts[0]), [(str(number), part.dtype) for number, part in enumerate(parts)])
            for number, part in enumerate(parts):
                cells[str(number)] = part
            own = [[Part(cells.view(f"V{cells.itemsize}"))]]
        merged += own
    return merged


def _add_sizes(sizes: Array, column: Column) -> None:
    for part in column:
        if part.rows is None:
            sizes += part.cells.itemsize
        else:
            sizes[part.rows] += part.cells.itemsize


def _put(out: Array, places: Array, cells: Array) -> None:
    """Write each cell from its place on."""
    size = cells.itemsize
    if len(cells):
        # Overlapping: an item at every byte.
        np.ndarray(len(out) - size + 1, cells.dtype, out.data, strides=(1,))[places] = cells


def _cells(values: Array, dtype: str, shape: tuple[int, ...] = ()) -> Array:
    cells = np.empty(len(values), [("length", ">i4"), ("value", dtype, shape)])
    cells["length"] = cells.itemsize - 4
    cells["value"] = values
    return cells.view(f"V{cells.itemsize}")


def _nullable(cells: Array, known: npt.NDArray[np.bool_] | None) -> Column:
    if known is None or known.all():
        return [Part(cells)]
    there, absent = np.flatnonzero(known), np.flatnonzero(~known)
    nulls = _nulls(len(absent))
    return [Part(cells.take(there), there), Part(nulls, absent)] if len(there) else [Part(nulls)]


def _nulls(count: int) -> Array:
    return _void(np.full((count, 1), _NULL))


def _void(matrix: Array) -> Array:
    """Return the rows of a matrix as items."""
    matrix = np.ascontiguousarray(matrix)
    return matrix.view(f"V{matrix.itemsize * matrix.shape[1]}")[:, 0]
