"""The database's clock, by which a flush decides which events are accepted.

The clocks of the workers would disagree, and one that is wrong would quarantine what the others count.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import ClockError
from usage_worker.events.event import MAX_CLOCK_DIFFERENCE

if TYPE_CHECKING:
    from usage_worker.store import Store


class DatabaseClock(NamedTuple):
    """The time that PostgreSQL gave, and the monotonic time at which it did."""

    given: datetime
    given_at: float

    def now(self) -> datetime:
        """Return the time by the database's clock."""
        return self.given + timedelta(seconds=time.monotonic() - self.given_at)


def database_clock(store: Store) -> DatabaseClock:
    """Check that ingest can write, and read the database's clock.

    Raises:
        ClockError: this machine's clock differs by more than `MAX_CLOCK_DIFFERENCE`.
        StoreUnavailableError: see `Store.ping`.
    """
    before = datetime.now(UTC)
    given = store.ping()
    given_at, after = time.monotonic(), datetime.now(UTC)
    # However long the answer took, it was given in between.
    difference = max(before - given, given - after)
    if difference > MAX_CLOCK_DIFFERENCE:
        seconds, where = difference.total_seconds(), "ahead of" if before > given else "behind"
        raise ClockError(
            f"this worker's is {seconds:.0f} s {where} PostgreSQL's ({after:%Y-%m-%dT%H:%M:%SZ} instead of"
            f" {given:%Y-%m-%dT%H:%M:%SZ}), and takes no events until they differ by at most"
            f" {MAX_CLOCK_DIFFERENCE.total_seconds():.0f} s; set the wrong clock"
        )
    return DatabaseClock(given, given_at)
