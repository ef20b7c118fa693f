"""The SQL of the store: one query a file in `sql/`, named by its file, with a comment that says why."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import LiteralString


@cache
def query(name: str) -> LiteralString:
    """The text of `sql/<name>.sql`; our own file, so it is as trusted as a literal."""
    return files("worker.store").joinpath("sql", f"{name}.sql").read_text()
