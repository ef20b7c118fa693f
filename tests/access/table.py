"""The table of docs/access.md, as the tests read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "access.md"
ANY = "any"


@dataclass(frozen=True)
class Line:
    """The access of each role to some objects by some commands, for some states of the owner's row."""

    objects: tuple[str, ...]
    commands: tuple[str, ...]
    rows: tuple[str, ...]
    cells: dict[str, str]

    def specificity(self, object_name: str, command: str, row: str) -> int:
        """Return 0 if the line does not match; a name ranks above a pattern, a state above `any`."""
        if command not in self.commands or not (row in self.rows or ANY in self.rows):
            return 0
        by_pattern = any(fnmatchcase(object_name, pattern) for pattern in self.objects)
        return by_pattern and 2 + 2 * (object_name in self.objects) + (row in self.rows)


@dataclass
class Table:
    """The lines of the document; `used` holds the numbers of those that matched an object of the database."""

    roles: list[str]
    lines: list[Line]
    used: set[int] = field(default_factory=set)
    _found: dict[tuple[str, str, str], int | str] = field(default_factory=dict)

    def expected(self, object_name: str, command: str, row: str, role: str) -> str:
        """Return the cell, or a message if no line or more than one matches."""
        key = object_name, command, row
        if key not in self._found:
            self._found[key] = self._line(*key)
        found = self._found[key]
        return found if isinstance(found, str) else self.lines[found].cells[role]

    def _line(self, object_name: str, command: str, row: str) -> int | str:
        fits = [line.specificity(object_name, command, row) for line in self.lines]
        best = max(fits)
        if not best:
            return "docs/access.md has no line"
        if fits.count(best) > 1:
            return "docs/access.md has two lines"
        self.used.add(fits.index(best))
        return fits.index(best)


def read_table() -> Table:
    """Parse the table of the document."""
    header, *body = (_cells(line) for line in _text().splitlines() if line.startswith("| "))
    return Table(
        header[3:],
        [
            Line(_list(objects), _list(commands), _list(rows), dict(zip(header[3:], cells, strict=True)))
            for objects, commands, rows, *cells in body
        ],
    )


def written_columns(relation: str, command: str) -> tuple[str, ...] | None:
    """Return the columns that users may write, or None if the document does not list columns for the relation."""
    lists = re.finditer(rf"^- `{relation}`, ([a-z ]+):(.*?)(?=^- |\n\n|\Z)", _text(), re.MULTILINE | re.DOTALL)
    found = [tuple(re.findall(r"`(\w+)`", it[2])) for it in lists if command in it[1].split()]
    assert len(found) < 2, f"docs/access.md lists the columns of {relation} twice"
    return found[0] if found else None


@cache
def _text() -> str:
    return DOCUMENT.read_text()


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]


def _list(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(","))
