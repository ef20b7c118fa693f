"""The benchmark of the purge, small: its totals, never its figures."""

from __future__ import annotations

import json
import subprocess
import sys


def test_counting_goes_on_while_rows_are_purged() -> None:
    size = ["--rows", "3000", "--events", "3000", "--pairs", "1000"]
    command = [sys.executable, "-m", "usage_worker.cli", "bench", "purge", *size, "--json"]
    run = subprocess.run(command, check=True, timeout=170, capture_output=True, text=True)
    result = json.loads(run.stdout)
    assert result["exact"] is True
    # Beat may have purged some of them.
    assert 0 <= result["purged"] <= 3000
    assert 0 < result["visible_p50_ms"] <= result["visible_p99_ms"]
