"""docs/schema.md is what the migrations make today, and everything that they make has a comment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from tools.schema import PAGE, QUERIES, page
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_page_is_current(database: str) -> None:
    assert PAGE.read_text("utf-8") == page(database), "schema.md is out of date: run `make schema`"


def test_everything_has_a_comment(database: str) -> None:
    assert list(uncommented(database)) == []
    runner = Runner(database)
    for version in ("3.0.0", "2.0.0"):
        runner.down(version)
        assert list(uncommented(database)) == []


def uncommented(url: str) -> Iterator[str]:
    """Yield relations, their columns, indexes and policies, and functions that have no comment."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        rows: dict[str, list[dict[str, Any]]] = {
            name: connection.execute(QUERIES(name)).fetchall()
            for name in ("relations", "functions", "columns", "indexes", "policies")
        }
    relations = {row["oid"]: row["name"] for row in rows["relations"] if "_kept_" not in row["name"]}
    for kind, found in rows.items():
        for row in found:
            relation = row.get("relation", row.get("oid"))
            if not row["meaning"] and (kind == "functions" or relation in relations):
                yield f"{kind}: {relations.get(row.get('relation'), '')} {row['name']}"
