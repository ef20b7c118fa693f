"""The database's clock, by which a flush decides which events are accepted.

The clocks of the workers would disagree, and one that is wrong would quarantine what the others count.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from usage_worker.errors import ClockError
from usage_worker.events.event import MAX_CLOCK_DIFFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.store.connection import Store


# More drift between wall time and monotonic time means that a clock was set, or that the machine was suspended: the
# monotonic clock does not count that.
_MAX_DRIFT_SECONDS = 1.0


class DatabaseClock:
    """PostgreSQL's clock: asked once, and again where this machine's clocks disagree about how long ago that was."""

    def __init__(self, store: Store) -> None:
        """Check that ingest can write, and ask for the time.

        Raises:
            ClockError: this machine's clock differs by more than `MAX_CLOCK_DIFFERENCE`.
            StoreUnavailableError: see `Store.ping`.
        """
        self._store = store
        self._ask(store.ping)

    def now(self) -> datetime:
        """Return the time by the database's clock. Raises like the constructor."""
        since = time.monotonic() - self._given_at
        if abs(time.time() - self._wall_time - since) > _MAX_DRIFT_SECONDS:
            self._ask(self._store.now_outside_pool)  # meanwhile, a batch is counted in the pool's connection
            since = time.monotonic() - self._given_at
        return self._given + timedelta(seconds=since)

    def _ask(self, question: Callable[[], datetime]) -> None:
        before = datetime.now(UTC)
        self._given = given = question()
        self._given_at, self._wall_time, after = time.monotonic(), time.time(), datetime.now(UTC)
        # However long the answer took, it was given in between.
        difference = max(before - given, given - after)
        if difference > MAX_CLOCK_DIFFERENCE:
            seconds, where = difference.total_seconds(), "ahead of" if before > given else "behind"
            raise ClockError(
                f"this worker's is {seconds:.0f} s {where} PostgreSQL's ({after:%Y-%m-%dT%H:%M:%SZ} instead of"
                f" {given:%Y-%m-%dT%H:%M:%SZ}), and takes no events until they differ by at most"
                f" {MAX_CLOCK_DIFFERENCE.total_seconds():.0f} s; set the wrong clock"
            )
