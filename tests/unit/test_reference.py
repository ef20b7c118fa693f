"""docs/reference is current, whatever the environment of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools.reference import FOLDER, pages
from tools.reference.annotations import bounds, meanings, type_words

if TYPE_CHECKING:
    from pathlib import Path

PAGES = pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_is_current(path: Path) -> None:
    assert path.read_text("utf-8") == PAGES[path], f"{path.name} is out of date: run `make reference`"


def test_folder_has_no_other_page() -> None:
    assert set(FOLDER.iterdir()) == set(PAGES)


def test_pages_do_not_depend_on_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USAGE_FLUSH_INTERVAL", "USAGE_SCHEDULE_PURGE", "USAGE_STREAM_SHARDS"):
        monkeypatch.setenv(name, "17")
    assert pages() == PAGES


def test_attribute_without_docstring_is_named() -> None:
    with pytest.raises(ValueError, match="second has no docstring"):
        meanings(Undocumented)


def test_bounds_of_every_alternative_are_listed() -> None:
    annotation = next(row for row in PAGES[FOLDER / "events.md"].splitlines() if row.startswith("| `cost_usd`"))
    assert "decimal or null | null | at least 0, at most 1,000,000, at most 10 decimals |" in annotation
    assert (type_words(int | None), bounds(int | None)) == ("integer or null", "")


class Undocumented:
    first: int
    """It has one."""
    second: int
    third: int
    """It has one, too."""
