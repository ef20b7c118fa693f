"""A line of a named query that names a list of columns is repeated for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.queries import Queries

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_line_with_a_list_is_repeated_with_commas_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "with_queries"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.sql").write_text(
        "-- name: add\nUPDATE t SET\n    {sums} = {sums} + 1,\n    {sums} = 0\n  FROM {table}\n\n"
        "-- name: other\nSELECT 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    query = Queries("with_queries", {"sums": ("a", "b")})
    assert query("add") == "UPDATE t SET\n    a = a + 1,\n    b = b + 1,\n    a = 0,\n    b = 0\n  FROM {table}"
    assert query("other") == "SELECT 1"
