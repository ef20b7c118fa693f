"""Values in the text format of COPY (PostgreSQL manual, COPY, "Text Format")."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
NULL = "\\N"


@lru_cache(maxsize=1024)
def escaped(text: str) -> str:
    """Return a text with the characters escaped that separate columns and rows."""
    return text.translate(_ESCAPES)


def array(values: Iterable[str]) -> str:
    """Return an array of canonical values, none of which needs quotes."""
    return "{" + ",".join(values) + "}"
