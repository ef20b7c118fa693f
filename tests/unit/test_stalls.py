"""The conditions under which a shard is stalled."""

from __future__ import annotations

import pytest

from usage_worker.monitoring.stalls import is_stalled


@pytest.mark.parametrize(
    ("oldest", "committed", "stalled"),
    [
        (0.0, None, False),
        (59.9, None, False),
        (60.1, None, True),
        (60.1, 30.1, True),
        (60.1, 29.9, False),
        (600.0, 0.2, False),
        (0.3, 86_400.0, False),
    ],
)
def test_old_entry_without_recent_commit_is_stall(oldest: float, committed: float | None, stalled: bool) -> None:
    assert is_stalled(oldest, committed) is stalled


def test_limits_are_arguments() -> None:
    assert is_stalled(2.0, 1.0, longest_wait=1.5, longest_silence=0.5)
    assert not is_stalled(2.0, 1.0, longest_wait=2.5, longest_silence=0.5)
