"""No test runs across midnight: many compare the days of PostgreSQL with those of Python."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from time import sleep

import pytest

# Longer than nearly every test takes.
BEFORE = timedelta(seconds=30)


def await_new_day() -> None:
    """Wait for the new day where the old one is nearly over."""
    now = datetime.now(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    if midnight - now < BEFORE:
        sleep((midnight - now).total_seconds())


@pytest.fixture(autouse=True)
def in_one_day() -> None:
    """Begin in the new day instead of at the end of the old one."""
    await_new_day()
