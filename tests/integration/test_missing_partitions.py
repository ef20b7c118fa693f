"""Events of a day without a partition: refused only where another session does not see one, either."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.integration.database import run
from usage_worker.store.batch import BatchTransaction
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from tests.integration.conftest import IngestHarness


def event_of(harness: IngestHarness) -> dict[str, Any]:
    pair = {"user_id": harness.users[0], "agent_id": harness.agents[0]}
    return pair | {"event_id": uuid4(), "occurred_at": datetime.now(UTC)}


def partition_of(event: dict[str, Any]) -> str:
    return f"usage_events_{event['occurred_at']:%Y%m%d}"


def test_day_that_loses_its_partition_before_the_ledger_is_written(
    harness: IngestHarness, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = event_of(harness)
    dropped: list[object] = []
    write_ledger = BatchTransaction.write_ledger

    def late(transaction: BatchTransaction, chunks: Iterable[bytes], events: int) -> None:
        if not dropped:
            dropped.append(run(database, f"DROP TABLE {partition_of(event)}"))
        write_ledger(transaction, chunks, events)

    monkeypatch.setattr(BatchTransaction, "write_ledger", late)
    harness.publish(event)
    assert harness.flush() == Intake(1, 1, 0, 0)
    assert dropped
    harness.check()


def test_events_of_a_day_that_was_detached_by_hand_are_refused(harness: IngestHarness, database: str) -> None:
    event = event_of(harness)
    run(database, f"ALTER TABLE usage_events DETACH PARTITION {partition_of(event)}")
    harness.publish(event, counted=False)
    assert harness.flush() == Intake(1, 0, 0, 1)
    assert "no partition" in harness.dead_letters()[0]["reason"]
