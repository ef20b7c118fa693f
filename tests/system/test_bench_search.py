"""The benchmark of searches finds the nearest agents. Times depend on the machine and are not asserted."""

from __future__ import annotations

import json
import subprocess
import sys

AGENTS = "2000"
BY_VECTOR = {"vector", "vector, filter that leaves 1 %"}


def test_exact_searches_find_all_of_the_nearest() -> None:
    command = [sys.executable, "-m", "usage_worker.cli", "bench", "search", "--agents", AGENTS, "--json"]
    run = subprocess.run(command, check=False, timeout=500, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    timings = json.loads(run.stdout)["sizes"][AGENTS]
    assert {
        name: timing["recall"] for name, timing in timings.items() if timing["recall"] is not None
    } == dict.fromkeys(BY_VECTOR, 1.0)
    for timing in timings.values():
        assert 0 < timing["p50_ms"] <= timing["p95_ms"]
