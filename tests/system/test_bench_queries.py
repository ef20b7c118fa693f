"""The queries of a user's own pages return rows, and use an index. Times depend on the machine and are not asserted."""

from __future__ import annotations

import json
import subprocess
import sys

from usage_worker.migrate import latest_version

# Enough rows for the planner to prefer an index, on every version of the schema.
ROWS = "20000"
QUERIES_2 = {"list", "popular", "recent"}
QUERIES_3 = {"list", "favourites", "folder", "tags", "popular", "recent"}


def test_every_query_uses_an_index() -> None:
    command = [sys.executable, "-m", "usage_worker.cli", "bench", "queries", "--rows", ROWS, "--json"]
    run = subprocess.run(command, check=False, timeout=500, capture_output=True, text=True)
    result = json.loads(run.stdout)
    assert run.returncode == (0 if result["exact"] else 1), run.stderr
    assert {version: set(sizes[ROWS]["queries"]) for version, sizes in result["versions"].items()} == {
        "2.0.0": QUERIES_2,
        "3.0.0": QUERIES_3,
        latest_version(): QUERIES_3,
    }
    for sizes in result["versions"].values():
        assert set(sizes) == {ROWS}
        assert sizes[ROWS]["bytes_per_row"] > 0
        assert sizes[ROWS]["index_bytes_per_row"] > 0
        for timing in sizes[ROWS]["queries"].values():
            assert " using idx_user_agents_" in timing["plan"]
            assert timing["rows"] > 0
            assert 0 < timing["p50_ms"] <= timing["p95_ms"] <= result["worst_p95_ms"]
