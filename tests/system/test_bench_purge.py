"""The benchmark of the purge with small sizes: its totals. Figures depend on the machine and are not asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# What users set for their own system: here it would leave everything unpurged, and publishers waiting for replicas.
OF_FILE = "USAGE_PURGE_AFTER_DAYS=3000\nUSAGE_REDIS_REPLICAS=1\n"


def test_events_are_counted_while_rows_are_purged(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(OF_FILE)
    size = ["--rows", "3000", "--events", "3000", "--pairs", "1000"]
    command = [sys.executable, "-m", "usage_worker.cli", "bench", "purge", *size, "--json"]
    run = subprocess.run(command, check=True, timeout=500, capture_output=True, text=True, cwd=tmp_path)
    result = json.loads(run.stdout)
    assert result["exact"] is True
    # Beat may have purged some of the rows.
    assert 0 <= result["purged"] <= 3000
    assert 0 < result["visible_p50_ms"] <= result["visible_p99_ms"]
