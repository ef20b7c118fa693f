"""The size of transactions follows the time that they take."""

from __future__ import annotations

import pytest

from usage_worker.ingest.batch_size import BatchSize


def test_first_batch_of_a_backlog_has_twenty_thousand_events() -> None:
    assert BatchSize(100_000).events == 20_000


@pytest.mark.parametrize(
    ("most", "batches"),
    [
        pytest.param(200_000, [(20_000, 0.8, 80_000), (80_000, 2.0, 160_000)], id="grows to what takes four seconds"),
        pytest.param(
            100_000, [(20_000, 0.0, 80_000), (80_000, 0.1, 100_000)], id="fourfold at most, and to the setting"
        ),
        pytest.param(100_000, [(20_000, 8.0, 10_000), (10_000, 600.0, 1_000)], id="slow batches: smaller ones"),
        pytest.param(100_000, [(100, 0.01, 20_000), (100, 1.9, 20_000)], id="calm traffic changes nothing"),
        pytest.param(10, [(10, 0.001, 10), (10, 60.0, 10)], id="a setting below the least"),
    ],
)
def test_size_after_batches(most: int, batches: list[tuple[int, float, int]]) -> None:
    size = BatchSize(most)
    for events, seconds, wanted in batches:
        size.counted(events, seconds)
        assert size.events == wanted
