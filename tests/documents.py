"""The blocks of the documents, which tests execute as they are written."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def page_text(page: str) -> str:
    """Return a page, named relative to docs."""
    return (DOCS / page).read_text("utf-8")


def blocks(page: str, language: str, section: str = "") -> list[str]:
    """Return the fenced blocks of a page, or of one of its sections."""
    part = page_text(page)
    if section:
        part = re.split(rf"^##? {section}$", part, flags=re.MULTILINE)[1].split("\n## ", maxsplit=1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
