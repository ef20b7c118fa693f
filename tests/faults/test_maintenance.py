"""Periodic work beside ingest at full speed: nothing is lost, nothing is counted twice, nothing stays undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.helpers import eventually
from tests.integration.ledger import days, make_days, tables
from usage_worker.maintenance import manage_partitions
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.harness import Arena


def test_partitions_come_and_go_beside_ingest(arena: Arena, tmp_path: Path) -> None:
    make_days(arena.database, *range(-130, -110), rows=100)
    with arena.workers(2):
        with arena.publishers(tmp_path, 2, 10_000):
            eventually(lambda: arena.has_booked(1), 60)
            report = manage_partitions(arena.resources.store, Settings(partitions_ahead_days=30))
        eventually(arena.settled, 60)
    assert report.failed == {}
    assert report.dropped == days(*range(-130, -110))
    assert set(days(*range(31))) <= tables(arena.database)
    arena.check()
