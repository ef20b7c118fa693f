"""The table of docs/access.md, as the tests read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "access.md"
ANY = "any"


@dataclass(frozen=True)
class Line:
    """What the roles may do to some objects by some commands, where the owner's row is in one of some states."""

    object_name: tuple[str, ...]
    commands: tuple[str, ...]
    rows: tuple[str, ...]
    cells: dict[str, str]

    def fit(self, object_name: str, command: str, row: str) -> int:
        """How closely the line speaks of this: 0 not at all; a name is closer than a pattern, a state than `any`."""
        if command not in self.commands or not (row in self.rows or ANY in self.rows):
            return 0
        names = (
            2
            if object_name in self.object_name
            else 1
            if any(fnmatchcase(object_name, pattern) for pattern in self.object_name)
            else 0
        )
        return names and 2 * names + (row in self.rows)


@dataclass
class Table:
    """The document's lines; `used` are those that an object of the database asked for."""

    roles: list[str]
    lines: list[Line]
    used: set[int] = field(default_factory=set)

    def expected(self, object_name: str, command: str, row: str, role: str) -> str:
        """The cell, or a sentence about its absence."""
        fits = [line.fit(object_name, command, row) for line in self.lines]
        best = max(fits)
        if not best:
            return "docs/access.md has no line"
        if fits.count(best) > 1:
            return "docs/access.md has two lines"
        self.used.add(fits.index(best))
        return self.lines[fits.index(best)].cells[role]


def read_table() -> Table:
    """Parse the table of the document."""
    header, *body = (_cells(line) for line in DOCUMENT.read_text().splitlines() if line.startswith("| "))
    return Table(
        header[3:],
        [
            Line(_list(object_name), _list(commands), _list(rows), dict(zip(header[3:], cells, strict=True)))
            for object_name, commands, rows, *cells in body
        ],
    )


def written_columns(relation: str, command: str) -> tuple[str, ...] | None:
    """The columns that users write by the command, where the document lists them; else they write the whole row."""
    lists = re.finditer(
        rf"^- `{relation}`, ([a-z ]+):(.*?)(?=^- |\n\n|\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    found = [tuple(re.findall(r"`(\w+)`", it[2])) for it in lists if command in it[1].split()]
    assert len(found) < 2, f"docs/access.md lists the columns of {relation} twice"
    return found[0] if found else None


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]


def _list(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(","))
