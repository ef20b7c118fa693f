"""What a command prints: a table on a terminal, lines with tabs elsewhere, or JSON; and its exit codes."""

from __future__ import annotations

import io
import json
import os
import sys
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from usage_worker.errors import OutputError
from usage_worker.printable import LINE_LENGTH, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

# The command failed, or it succeeded and found something that is wrong.
EXIT_PROBLEM = 1
# 128 + SIGINT, as in a shell.
EXIT_INTERRUPTED = 130
# The longest escape of one character, such as \U000e0001.
ESCAPE_LENGTH = 10

Cell = str | Text
"""A `Text` has a style, which only a terminal shows."""


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


def print_rows(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    title: str | None = None,
    figures: Collection[str] = (),
    headings_in_lines: bool = False,
) -> None:
    """Print a table on a terminal; elsewhere a line for each row, with tabs, for grep and cut.

    Args:
        headings: names of the columns; an empty sequence leaves them out.
        rows: the cells, which are escaped and cut.
        title: stands above the table, which then has a frame.
        figures: headings of the columns of figures, which are aligned to the right.
        headings_in_lines: prints the headings also where there is no terminal.
    """
    console = Console()
    if console.is_terminal:
        console.print(make_table(headings, rows, title=title, figures=figures))
        return
    if headings_in_lines:
        _print_lines([headings], printable)
    _print_lines(rows, _cut)


def print_lines(rows: Iterable[Sequence[Cell]]) -> None:
    """Print a line for each row, with tabs, on a terminal also; the cells are escaped and whole."""
    _print_lines(rows, escaped)


def _print_lines(rows: Iterable[Sequence[Cell]], form: Callable[[str], str]) -> None:
    for row in rows:
        write("\t".join(form(str(cell)) for cell in row) + "\n")


def make_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    title: str | None = None,
    figures: Collection[str] = (),
) -> Table:
    """Return the table that `print_rows` prints on a terminal."""
    table = Table(title=title, box=HEAVY_HEAD if title else None, show_header=bool(headings))
    for heading in headings:
        # Headings wrap between words and figures anywhere: a figure that is cut would look like another.
        if heading in figures:
            table.add_column(printable(heading).replace("_", " "), justify="right", overflow="fold")
        else:
            table.add_column(printable(heading))
    for row in rows:
        table.add_row(*map(_escaped_cell, row))
    return table


def counted(number: int, noun: str) -> str:
    """Return the number with the noun, whose plural ends with s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def escaped(text: str) -> str:
    """Escape what is not printable, and cut nothing."""
    return printable(text, ESCAPE_LENGTH * len(text))


def _cut(text: str) -> str:
    return printable(text, LINE_LENGTH)


def _escaped_cell(cell: Cell) -> Text:
    """Return a `Text`, in which square brackets are no markup."""
    return Text(_cut(str(cell)), cell.style if isinstance(cell, Text) else "")


def _json_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    # Without an exponent, which a reader may take for text.
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
