"""Pages of rows that are bounded by their bytes, too: a single payload may have megabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PAGE_ROWS = 500
PAGE_BYTES = 8 * 2**20

T = TypeVar("T")


def in_pages(rows: Iterable[T], bytes_of: Callable[[T], int], most_rows: float | None = None) -> Iterator[list[T]]:
    """Yield the rows in lists of at most `PAGE_BYTES` and `most_rows`, by default `PAGE_ROWS`.

    A larger row is alone in its list.
    """
    most_rows = most_rows or PAGE_ROWS
    page: list[T] = []
    filled = 0
    for row in rows:
        size = bytes_of(row)
        if page and (len(page) == most_rows or filled + size > PAGE_BYTES):
            yield page
            page, filled = [], 0
        page.append(row)
        filled += size
    if page:
        yield page
