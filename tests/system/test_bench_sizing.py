"""The benchmark of sizes with a short run: what it derives, and its totals. Figures depend on the machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def test_sizing_says_what_events_a_day_need() -> None:
    size = ["--rate", "500", "--seconds", "3", "--pairs", "1000"]
    command = [sys.executable, "-m", "usage_worker.cli", "bench", "sizing", *size, "--json"]
    run = subprocess.run(command, check=True, timeout=500, capture_output=True, text=True)
    result = json.loads(run.stdout)
    assert result["exact"] is True
    # An entry of version 2 takes 193 bytes an event, and a row of the ledger has two UUIDs of 16 bytes more.
    assert 100 < result["redis_bytes_per_event"] < 2_000
    assert 100 < result["ledger_bytes_per_event"] < 2_000
    assert result["cpu_us_per_event"].keys() == {"publisher", "worker", "valkey", "database"}
    few, many = (result["needs"][number] for number in ("1000000", "10000000"))
    assert many["wal_bytes_a_day"] == pytest.approx(10 * few["wal_bytes_a_day"])
    assert many["ledger_bytes"] == pytest.approx(result["ledger_bytes_per_event"] * 10_000_000 * 90)
    # An hour has a twenty-fourth of the events of a day.
    assert few["redis_bytes_an_hour"] == pytest.approx(result["redis_bytes_per_event"] * 1_000_000 / 24)
