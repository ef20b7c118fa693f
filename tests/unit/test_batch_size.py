"""The size of transactions follows the time that they take."""

from __future__ import annotations

from usage_worker.ingest.batch_size import BatchSize


def test_backlog_grows_to_what_takes_two_seconds() -> None:
    size = BatchSize(100_000)
    assert size.events == 20_000
    size.counted(20_000, 0.8)
    assert size.events == 50_000
    size.counted(50_000, 1.6)
    assert size.events == 62_500


def test_growth_is_bounded() -> None:
    size = BatchSize(100_000)
    size.counted(20_000, 0.0)
    assert size.events == 80_000
    size.counted(80_000, 0.1)
    assert size.events == 100_000


def test_slow_batches_make_the_next_ones_smaller() -> None:
    size = BatchSize(100_000)
    size.counted(20_000, 8.0)
    assert size.events == 5_000
    size.counted(5_000, 600.0)
    assert size.events == 1_000


def test_small_batches_of_calm_traffic_change_nothing() -> None:
    size = BatchSize(100_000)
    for seconds in (0.01, 1.9):
        size.counted(100, seconds)
        assert size.events == 20_000


def test_size_is_never_above_the_setting() -> None:
    size = BatchSize(10)
    for seconds in (0.001, 60.0):
        size.counted(10, seconds)
        assert size.events == 10
