"""The fixtures that pytest finds where this package is installed; it loads nothing else until one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def usage_events() -> Iterator[list[dict[str, Any]]]:
    """Collect the events that are published during the test, and send none; see `usage_worker.testing.capture`."""
    from usage_worker.testing import capture  # noqa: PLC0415 - every run of pytest in this environment would load it

    with capture() as events:
        yield events
