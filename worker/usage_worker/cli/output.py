"""What a command prints: a table on a terminal, lines with tabs elsewhere, or JSON; and its exit codes."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from rich.box import HEAVY_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from usage_worker.errors import OutputError
from usage_worker.printable import LINE_LENGTH, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

# The command failed, or it succeeded and found something that is wrong.
EXIT_PROBLEM = 1
# The longest escape of one character, such as \U000e0001.
ESCAPE_LENGTH = 10
Cell = object
"""Text or a value; a `Text` has a style, which only a terminal shows."""
Form = Callable[[Any], str]
"""Shows a value to people."""
NO_FORMS: dict[str, Form] = {}


def echo(line: str, *, err: bool = False) -> None:
    """Print one line to standard output or error, escaped and cut: every line of a command that is neither is below."""
    write(f"{printable(line, LINE_LENGTH)}\n", err=err)


def write(text: str, *, err: bool = False) -> None:
    """Write text that is ours, or was escaped.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: nobody reads on, as after `head`; Typer ends the command for it.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed by whoever has started the command
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What the stream still holds would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise OutputError(error.strerror or "") from None


def prepare_output() -> None:
    """Let standard output escape what its encoding lacks, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_json(document: object) -> None:
    """Print one line of JSON; times are ISO 8601, decimals and UUIDs are strings."""
    write(json.dumps(document, default=_json_text) + "\n")


def print_json_array(documents: Iterable[object]) -> None:
    """Print what `print_json` prints of a list, one document after the other."""
    write("[")
    for number, document in enumerate(documents):
        write(", " * bool(number) + json.dumps(document, default=_json_text))
    write("]\n")


def print_rows(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    title: str | None = None,
    figures: Collection[str] = (),
    forms: Mapping[str, Form] = NO_FORMS,
    spare: Sequence[str] = (),
    headings_in_lines: bool = False,
    err: bool = False,
) -> None:
    """Print a table on a terminal; elsewhere a line for each row, with tabs, for grep and cut.

    On a narrow terminal, a table leaves spare columns out, then it folds times; where that is not enough, each row is a
    paragraph with a line for each cell.

    Args:
        headings: names of the columns; an empty sequence leaves them out.
        rows: the cells, which are escaped and cut; None is a dash. In lines it is empty, and the others
            are as they are, times as ISO 8601.
        title: stands above the table, which then has a frame.
        figures: headings of the columns of figures, which are aligned to the right.
        forms: how a terminal shows values of a column, by its heading.
        spare: headings of the columns that a narrow table leaves out, the first one first.
        headings_in_lines: prints the headings also where there is no terminal.
        err: print to standard error, as what precedes a question: standard output has the result alone.
    """
    console = Console(stderr=err)
    if not console.is_terminal:
        _print_lines([headings, *rows] if headings_in_lines else rows, _cut, err=err)
        return
    of_columns = [forms.get(heading) for heading in headings]
    shown = [[_formed(cell, form) for cell, form in zip_longest(row, of_columns)] for row in rows]
    fitting = _fitting(console.width, headings, shown, spare)
    if fitting is None:
        console.print(make_paragraphs(headings, map(_folded, shown), title=title))
    else:
        console.print(make_table(*fitting, title=title, figures=figures, width=console.width))


def _fitting(
    width: int, headings: Sequence[str], rows: list[list[Cell]], spare: Sequence[str]
) -> tuple[Sequence[str], list[list[Cell]]] | None:
    """Return headings and rows of a table of at most this width, None if there is none."""
    for heading in spare:
        if least_width(headings, rows) > width and heading in headings:
            headings, *rows = _without(list(headings).index(heading), [headings, *rows])
    if least_width(headings, rows) > width:
        rows = list(map(_folded, rows))
    return None if least_width(headings, rows) > width else (headings, rows)


def _folded(row: list[Cell]) -> list[Cell]:
    return [Text(cell.plain, cell.style) if isinstance(cell, Text) else cell for cell in row]


def _without(column: int, rows: Iterable[Sequence[Cell]]) -> list[list[Any]]:
    return [[*row[:column], *row[column + 1 :]] for row in rows]


def print_lines(rows: Iterable[Sequence[Cell]]) -> None:
    """Print a line for each row, with tabs, on a terminal also; the cells are escaped and whole."""
    _print_lines(rows, escaped)


def _print_lines(rows: Iterable[Sequence[Cell]], form: Callable[[str], str], *, err: bool = False) -> None:
    for row in rows:
        write("\t".join(form(_line_text(cell)) for cell in row) + "\n", err=err)


def make_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    title: str | None = None,
    figures: Collection[str] = (),
    width: int | None = None,
) -> Table:
    """Return the table that `print_rows` prints on a terminal; with `width`, it is at most that wide if it can be."""
    rows = list(rows)
    widths = _word_widths(headings, rows)
    if width is not None:
        widths = _spread(width - 3 * len(widths) - 1, widths, _text_widths(headings, rows))
    table = Table(title=title, box=HEAVY_HEAD if title else None, show_header=bool(headings))
    for heading, least in zip(headings, widths, strict=True):
        justify: Literal["right", "left"] = "right" if heading in figures else "left"
        # Words are never cut: a figure or a time that is would look like another.
        given = None if width is None else least
        table.add_column(_heading(heading), justify=justify, min_width=least, width=given, overflow="fold")
    for row in rows:
        table.add_row(*map(_escaped_cell, row))
    return table


def make_paragraphs(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str | None = None) -> Table:
    """Return the table with a line for each cell, and an empty line behind each row."""
    table = Table(title=title, box=None, show_header=False)
    table.add_column(min_width=max(map(len, " ".join(map(_heading, headings)).split()), default=0))
    table.add_column(overflow="fold")
    for row in rows:
        for heading, cell in zip(headings, row, strict=True):
            table.add_row(_heading(heading), _escaped_cell(cell))
        table.add_row()
    return table


def least_width(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> int:
    """Return how many columns of a terminal the table needs; 0 without headings, since it then wraps anywhere."""
    widths = _word_widths(headings, rows)
    return sum(widths) + 3 * len(widths) + 1


def _word_widths(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[int]:
    """Return the width of the longest word of each column, a time being one; a longer one than 32 is folded."""
    if not headings:
        return []
    columns = zip(map(Text, map(_heading, headings)), *(map(_escaped_cell, row) for row in rows), strict=True)
    return [min(max((cell_len(word) for cell in column for word in _words(cell)), default=1), 32) for column in columns]


def _text_widths(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[int]:
    columns = zip(map(_heading, headings), *(map(str, map(_escaped_cell, row)) for row in rows), strict=True)
    return [max(map(cell_len, column)) for column in columns] if headings else []


def _spread(room: int, least: list[int], most: list[int]) -> list[int]:
    """Widen columns evenly, to `most` at most; Rich would narrow some below their words, and cut the last column."""
    widths, spare = least.copy(), room - sum(least)
    for left, column in enumerate(sorted(range(len(least)), key=lambda it: most[it] - least[it])):
        more = max(min(most[column] - least[column], spare // (len(least) - left)), 0)
        widths[column] += more
        spare -= more
    return widths


def _words(cell: Text) -> list[str]:
    return [cell.plain] if cell.no_wrap else cell.plain.split()


def _heading(heading: str) -> str:
    return printable(heading).replace("_", " ")


def _formed(cell: Cell, form: Form | None) -> Cell:
    if cell is None:
        return "-"
    if not form or isinstance(cell, str):
        return cell
    return Text(form(cell), no_wrap=True) if isinstance(cell, datetime) else form(cell)


def escaped(text: str) -> str:
    """Escape what is not printable, and cut nothing."""
    return printable(text, ESCAPE_LENGTH * len(text))


def _line_text(cell: Cell) -> str:
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="seconds")
    return "" if cell is None else f"{cell:f}" if isinstance(cell, Decimal) else str(cell)


def _cut(text: str) -> str:
    return printable(text, LINE_LENGTH)


def _escaped_cell(cell: Cell) -> Text:
    """Return a `Text`, in which square brackets are no markup."""
    text = _cut(str(cell))
    return Text(text, cell.style, no_wrap=cell.no_wrap) if isinstance(cell, Text) else Text(text)


def _json_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    # Without an exponent, which a reader may take for text.
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
