"""The size of transactions follows the time that they take."""

from __future__ import annotations

import pytest

from usage_worker.ingest.batch_size import BatchSize


def test_first_batch_of_a_backlog_has_fifty_thousand_events() -> None:
    assert BatchSize(100_000).events == 50_000


@pytest.mark.parametrize(
    ("most", "batches"),
    [
        pytest.param(
            200_000,
            [(50_000, 2.1, 2.0, 150_000), (100_000, 5.0, 4.0, 150_000)],
            id="grows to six seconds with locked rows",
        ),
        pytest.param(200_000, [(50_000, 5.0, 0.5, 80_000), (60_000, 16.0, 1.0, 30_000)], id="eight seconds in all"),
        pytest.param(100_000, [(100, 16.0, 1.0, 1_000)], id="slow although not half full"),
        pytest.param(
            400_000,
            [(50_000, 0.0, 0.0, 200_000), (200_000, 0.1, 0.1, 400_000)],
            id="fourfold at most, and to the setting",
        ),
        pytest.param(
            100_000, [(50_000, 20.0, 20.0, 15_000), (15_000, 600.0, 600.0, 1_000)], id="slow batches: smaller ones"
        ),
        pytest.param(100_000, [(100, 0.01, 0.01, 50_000), (100, 1.9, 1.9, 50_000)], id="calm traffic changes nothing"),
        pytest.param(10, [(10, 0.001, 0.001, 10), (10, 60.0, 60.0, 10)], id="a setting below the least"),
    ],
)
def test_size_after_batches(most: int, batches: list[tuple[int, float, float, int]]) -> None:
    size = BatchSize(most)
    for events, seconds, locked, wanted in batches:
        size.counted(events, seconds, locked)
        assert size.events == wanted
