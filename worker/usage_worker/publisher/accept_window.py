"""The acceptance window of a publisher, which moves with the wall clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from usage_worker.errors import EventRefusedError
from usage_worker.events.event import Window

if TYPE_CHECKING:
    from datetime import timedelta

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.events.wire import Preparation, Prepared

T = TypeVar("T")


class AcceptWindow:
    """Prepares events with the acceptance window of the last second."""

    def __init__(self, length: timedelta) -> None:
        self._length = length
        self._make()

    def prepare(self, preparation: Preparation[T], values: T, ids: ExternalIds | None) -> Prepared:
        """Prepare an event.

        Raises:
            EventRefusedError: it is refused.
        """
        if time.monotonic() - self._made > 1:
            self._make()
        try:
            return preparation(values, self._window, ids)
        except EventRefusedError:
            if abs(_clock_offset() - self._offset) <= 1:
                raise
        # The wall clock has jumped since the window was made.
        self._make()
        return preparation(values, self._window, ids)

    def _make(self) -> None:
        self._window = Window.around(datetime.now(UTC), self._length)
        self._made, self._offset = time.monotonic(), _clock_offset()


def _clock_offset() -> float:
    """Return what the wall clock shows when the monotonic clock shows 0, which changes only when it is set."""
    return time.time() - time.monotonic()
