"""The benchmark with small sizes: its totals and its JSON keys. Figures depend on the machine and are not asserted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MIXES = {"uniform", "production"}
PROCESSES = {"publisher", "worker", "valkey", "database"}


def test_bench_totals_are_exact_and_json_is_complete() -> None:
    size = ["--events", "3000", "--naive-events", "100", "--pairs", "1000", "--paced-seconds", "2"]
    command = [sys.executable, "-m", "usage_worker.cli", "bench", *size, "--json"]
    run = subprocess.run(command, check=True, timeout=500, capture_output=True, text=True)
    result = json.loads(run.stdout)
    assert result["exact"] is True
    assert set(result["events_per_second"]) == {"prepared", "ceiling", "naive", "plain_copy_rollup", "product"}
    for path in result["events_per_second"].values():
        assert set(path) == MIXES
        assert min(path.values()) > 0
    for mix in MIXES:
        rates = {path: result["events_per_second"][path][mix] for path in result["events_per_second"]}
        assert result["ratio_to_naive"][mix] == rates["product"] / rates["naive"]
        assert result["ratio_to_plain_copy_rollup"][mix] == rates["product"] / rates["plain_copy_rollup"]
        assert result["ratio_to_copy"][mix] == rates["product"] / rates["ceiling"]
        assert result["ratio_to_prepared_copy"][mix] == rates["product"] / rates["prepared"]
        assert result["wal_bytes_per_event"][mix] > 0
        product = result["cpu_seconds_per_1000_events"][mix]
        plain = result["plain_copy_rollup_cpu_seconds_per_1000_events"][mix]
        for cost in (product, plain):
            assert set(cost) == PROCESSES | {"total"}
            assert cost["total"] == pytest.approx(sum(cost[process] for process in PROCESSES))
        assert min(product["worker"], product["database"]) > 0
        assert plain["worker"] == plain["valkey"] == 0
        assert min(plain["publisher"], plain["database"]) > 0
    assert 0 < result["track_p50_us"] <= result["track_p99_us"]
    assert 0 < result["visible_p50_ms"] <= result["visible_p99_ms"]
    assert 0 <= result["hot_ratio"] <= 1
