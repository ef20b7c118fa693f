"""PostgreSQL's clock decides: a worker whose own is wrong takes nothing; entries have no other window."""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import UTC, datetime
from itertools import chain, repeat
from subprocess import DEVNULL, Popen
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.helpers import eventually
from tests.integration.commands import Cli
from tests.integration.database import run
from tests.integration.ledger import partition_tables
from tests.integration.test_poison_events import pair
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import IngestHarness

# Python imports this module at its start: the whole process then lives at another time.
WRONG_CLOCK = """
import datetime, time

real_time, real_time_ns, real_datetime = time.time, time.time_ns, datetime.datetime
time.time = lambda: real_time() + {shift}
time.time_ns = lambda: real_time_ns() + {shift} * 10**9


class Kind(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, real_datetime)


class Shifted(real_datetime, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real_datetime.fromtimestamp(time.time(), tz)


datetime.datetime = Shifted
"""
HOUR, DAY = 3_600, 86_400
# The end of the calendar, the year 1970, microseconds, and the last id that a stream can have.
ENTRY_IDS = ("1-1", "253402300799000-0", "1795644342179221-0", "18446744073709551615-18446744073709551615")


@pytest.mark.parametrize(("shift", "where"), [(-HOUR, "behind"), (40 * DAY, "ahead of")], ids=["hour", "40 days"])
def test_worker_with_wrong_clock_takes_nothing(
    harness: IngestHarness, cli: Cli, tmp_path: Path, shift: int, where: str
) -> None:
    shard = harness.resources.stream.shard_of(harness.users[0])
    # Old enough for `status` to say why it waits.
    add(harness, shard, f"{int(time.time() * 1000) - 120_000}-0", {}, {"occurred_at": datetime.now(UTC).isoformat()})
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK.format(shift=shift))
    wrong = cli.env | {"PYTHONPATH": ":".join(filter(None, [str(tmp_path), *sys.path]))}
    records = FlushRecords(harness.resources.stream.connection)
    with Popen([sys.executable, "-m", "tests.faults.flusher"], env=wrong, stderr=DEVNULL) as worker:
        noted = eventually(lambda: (record := records.read(shard)[0]).is_failing and record, 30)
        worker.terminate()
    assert noted
    found = re.fullmatch(rf"the clocks differ: this worker's is (\d+) s {where} PostgreSQL's \(.*", noted.error or "")
    assert found, noted.error
    assert abs(int(found[1]) - abs(shift)) <= 60
    drained = Cli(tmp_path, **wrong).run("drain")
    assert drained.returncode == 1
    said = drained.stderr.splitlines()[-1]
    assert said.startswith(f"usage-worker: shard {shard}: 0 applied, ")
    assert "1 entry left: the clocks differ: " in said
    status = cli.run("status")
    assert status.returncode == 1
    assert "the clocks differ" in status.stdout
    backlog = harness.resources.stream.backlog(shard)
    assert (backlog.entries, backlog.pending) == (1, 0)
    assert harness.resources.store.intake_totals() == Intake()
    assert cli.drained() == {"applied": 2, "duplicate": 0, "quarantined": 0, "left": 0}
    assert not records.read(shard)[0].is_failing


@pytest.mark.parametrize("entry_id", ENTRY_IDS)
def test_time_of_entry_passes_the_window(harness: IngestHarness, database: str, entry_id: str) -> None:
    days = partition_tables(database)
    now = datetime.now(UTC).isoformat()
    add(harness, 0, entry_id, {}, {"event_id": "order-7"}, {"occurred_at": now}, {"event_id": "1", "occurred_at": now})
    assert harness.flush() == Intake(4, 2, 0, 2)
    (reason,) = {letter["reason"] for letter in harness.dead_letters()}
    assert reason.endswith("by the entry's id, since the event has no time of its own")
    assert run(database, "SELECT count(*) FROM public.usage_event_keys") == [(0,)]
    today = f"usage_events_{datetime.now(UTC):%Y%m%d}"
    assert partition_tables(database) - days <= {today}
    assert manage_partitions(harness.resources.store, harness.resources.settings).failed == {}


def test_worker_that_was_suspended_quarantines_nothing(harness: IngestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's monotonic clock stands still meanwhile: from the first answer on, it is an hour behind all others."""
    lags = chain([0], repeat(HOUR))
    stands_still = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() - next(lags))
    monkeypatch.setattr("usage_worker.ingest.clock.time", stands_still)
    shard = harness.resources.stream.shard_of(harness.users[0])
    now = datetime.now(UTC).isoformat()
    add(harness, shard, "*", {"occurred_at": now})
    assert harness.flush_shard(shard).intake == Intake(1, 1, 0, 0)


def add(harness: IngestHarness, shard: int, entry_id: str, *events: dict[str, str]) -> None:
    body = json.dumps([pair(harness, **fields) for fields in events])
    harness.redis.xadd(harness.resources.stream.key(shard), {"v": 1, "events": body}, id=entry_id)
