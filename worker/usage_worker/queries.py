"""Named SQL queries: one `.sql` file for each use case; a `-- name:` header starts each query.

A line with the name of a list of columns in braces stands for one line a column, with commas between them:

    SET
        {counters} = d.{counters} + excluded.{counters}
"""

from __future__ import annotations

import re
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import LiteralString

_HEADER = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


class Queries:
    """The named queries of a package's `.sql` files, read at first use."""

    def __init__(self, package: str, columns: Mapping[str, Sequence[LiteralString]] | None = None) -> None:
        self._package = package
        self._columns = columns or {}

    def __call__(self, name: str) -> LiteralString:
        """Return the text of a query; it is our own file, so it is as trusted as a literal.

        Raises:
            KeyError: no file has a query of that name.
        """
        return self.texts[name]

    @cached_property
    def texts(self) -> dict[str, LiteralString]:
        """Every query by name.

        Raises:
            ValueError: two queries have the same name.
        """
        found: dict[str, LiteralString] = {}
        for file in sorted(files(self._package).iterdir(), key=lambda file: file.name):
            if not file.name.endswith(".sql"):
                continue
            _, *parts = _HEADER.split(file.read_text(encoding="utf-8"))
            for name, text in zip(parts[::2], parts[1::2], strict=True):
                if name in found:
                    raise ValueError(f"{self._package} has two queries named {name}")
                found[name] = "\n".join(map(self._repeated, text.strip().split("\n")))
        return found

    def _repeated(self, line: LiteralString) -> LiteralString:
        """Return the line once for each column of the list that it names, or as it is."""
        for name, columns in self._columns.items():
            placeholder = f"{{{name}}}"
            if placeholder in line:
                start, comma = line.removesuffix(","), "," * line.endswith(",")
                return ",\n".join(start.replace(placeholder, column) for column in columns) + comma
        return line
