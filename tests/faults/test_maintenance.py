"""Periodic tasks during ingest at full speed: they complete, and no event is lost or counted twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.helpers import eventually
from tests.integration.ledger import create_days, days, partition_tables
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.harness import Harness


def test_partitions_are_managed_during_ingest(harness: Harness, tmp_path: Path) -> None:
    create_days(harness.database, *range(-113, -110), rows=100)
    with harness.workers(2):
        with harness.publishers(tmp_path, 2, 4_000):
            eventually(lambda: harness.has_counted(1), 60)
            report = manage_partitions(harness.resources.store, Settings(partitions_ahead_days=30))
        eventually(harness.settled, 60)
    assert report.failed == {}
    assert report.dropped == days(*range(-113, -110))
    assert set(days(*range(31))) <= partition_tables(harness.database)
    harness.check()
