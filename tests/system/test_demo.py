"""The demo with few events: a worker is killed inside a batch, a backlog waits, and every counter is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Enough for some of the user who does not exist.
EVENTS = 3_000
# What users may have set for their own system: here it would create the users that the demo wants quarantined, have
# publishers wait for replicas, or be wrong.
OF_ENVIRONMENT = {"USAGE_UNKNOWN": "create", "USAGE_STREAM_SHARDS": "none"}
OF_FILE = "USAGE_REDIS_REPLICAS=1\nUSAGE_BROKER_URL=none\n"


def test_demo_kills_a_worker_and_is_exact_whatever_is_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(OF_FILE)
    command = [sys.executable, "-m", "usage_worker.cli", "demo", "--events", str(EVENTS), "--json"]
    environment = os.environ | OF_ENVIRONMENT
    run = subprocess.run(
        command, check=True, timeout=500, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    result = json.loads(run.stdout)
    assert result["exact"] is True
    assert result["differences"] == []
    assert result["quarantined"] > 0
    assert result["published"] == result["accepted"] >= EVENTS
    assert result["accepted"] == result["applied"] + result["duplicate"] + result["quarantined"]
    killed, entries = result["killed_worker_pid"], result["killed_worker_entries"]
    assert entries > 0
    assert f"killed worker {killed} by SIGKILL in the middle of a batch, with {entries} entries" in run.stderr
    assert "process=worker1" in run.stderr, "the supervisor restarted nothing"
    assert 0 < result["backlog_events"] < result["accepted"]
    assert f"{result['backlog_events']:,} events wait" in run.stderr
    assert result["backlog_events_per_second"] > 0
    assert 0 < result["busiest_pair"]["usage_count"] <= result["applied"]
    assert result["flower_url"] in run.stderr
    assert 0 < result["visible_p50_ms"] <= result["visible_p99_ms"]
