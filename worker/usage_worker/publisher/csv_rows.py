"""The rows of a CSV file with the numbers of their lines, whatever a stray quote does to them."""

from __future__ import annotations

import csv
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

# The first is taken where a header has a single column.
_DELIMITERS = (",", ";", "\t", "|")


class Row(NamedTuple):
    """A row: the number of its first line, from 1, its cells, and its problem where it could not be read."""

    number: int
    cells: list[str]
    problem: str = ""


def csv_rows(file: TextIO) -> Iterator[Row]:
    """Yield the rows of a file, beginning with the header, which shows the delimiter; blank lines are left out.

    A quote that is never closed, or closed in another row, takes the lines in between into one cell. Such a row is
    reported at the line of the quote, and the lines that it took are read one by one.
    """
    start: list[str] = []
    for text in file:
        start.append(text)
        if text.strip("\r\n"):
            break
    delimiter = max(_DELIMITERS, key="".join(start).count)
    taken: list[str] = []
    lines = _noting(chain(start, file), taken)
    number, columns = 1, 0
    while (row := _row(number, lines, delimiter)) is not None:
        if columns and len(taken) > 1 and (row.problem or len(row.cells) != columns):
            yield Row(
                number, [], f"a quote opens here and takes {len(taken) - 1} more lines, which are read one by one"
            )
            yield from _one_by_one(number + 1, taken[1:], delimiter)
        elif row.cells or row.problem:
            yield row
        columns = columns or len(row.cells)
        number += len(taken)
        taken.clear()


def _noting(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    for text in lines:
        taken.append(text)
        yield text


def _row(number: int, lines: Iterator[str], delimiter: str) -> Row | None:
    """Return the next row, None at the end; each has its own reader, since one that failed is inside quotes."""
    try:
        cells = next(csv.reader(lines, delimiter=delimiter, strict=True), None)
    except csv.Error as error:
        return Row(number, [], f"is not CSV: {error}")
    return None if cells is None else Row(number, cells)


def _one_by_one(number: int, lines: list[str], delimiter: str) -> Iterator[Row]:
    for place, text in enumerate(lines, start=number):
        row = _row(place, iter([text]), delimiter)
        if row is not None and (row.cells or row.problem):
            yield row
