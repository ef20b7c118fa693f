"""A table of the page; every cell is text from here, escaped once."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Table:
    """Rows whose first cell is their heading; `total` is the last row, if there is one."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] | None = None


def table_html(table: Table, caption: str) -> str:
    """Return the table in a box of its own that scrolls sideways, and can be reached with the keyboard."""
    label = escape(caption)
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in table.headings)
    body = "\n".join(map(_row_html, table.rows))
    foot = "" if table.total is None else f"<tfoot>{_row_html(table.total)}</tfoot>"
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n{foot}</table></div>"
    )


def _row_html(row: Sequence[str]) -> str:
    heading, *cells = map(escape, row)
    return f'<tr><th scope="row">{heading}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
