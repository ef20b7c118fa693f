"""What several test modules share and pytest does not bring."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
POLL_INTERVAL = 0.02


def eventually(condition: Callable[[], T], timeout: float = 10.0) -> T:
    """Poll the condition until its value is true and return it; fail with the last one after `timeout` s."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"still {value!r} after {timeout} s")
        time.sleep(POLL_INTERVAL)
    return value
