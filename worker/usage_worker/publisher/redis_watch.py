"""What a sender looks at before it sends: the memory of Redis, and its clock."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from usage_worker.errors import StreamUnavailableError
from usage_worker.events.event import MAX_CLOCK_DIFFERENCE
from usage_worker.publisher.rate_limited_log import say
from usage_worker.queue.vitals import read_vitals

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection
    from usage_worker.queue.server import Concern

# A backfill is sent faster than it is counted, and leaves the rest to live events.
BACKFILL_MEMORY_LIMIT = 0.5
SECONDS_BETWEEN_CHECKS = 1.0


class RedisWatch:
    """The checks of the servers of one connection, each once a second at most."""

    def __init__(self, connection: RedisConnection, memory_limit: float) -> None:
        self._connection = connection
        self._memory_limit = memory_limit
        self._checked: dict[str, float] = {}
        self._may_ask = True
        self._clock_differs = False

    def check(self, server: str, *, now: bool) -> None:
        """Look at a server again if a second has passed, or `now`.

        Raises:
            StreamUnavailableError: the memory is nearly full; the workers need the rest to drain it.
        """
        last = self._checked.get(server, float("-inf"))
        if not self._may_ask or (not now and time.monotonic() - last < SECONDS_BETWEEN_CHECKS):
            return
        if not self._has_room(server):
            of_server = f"the memory of {server}" if server else "its memory"
            raise StreamUnavailableError(f"{of_server} is more than {self._memory_limit:.0%} full")
        self._checked[server] = time.monotonic()

    def has_room(self) -> bool:
        """Ask whether the memory of any server has room for events; it has where this user may not ask.

        Raises:
            StreamUnavailableError: none answers.
        """
        failure: StreamUnavailableError | None = None
        answered = False
        for server in self._connection.servers():
            try:
                if self._has_room(server):
                    return True
                answered = True
            except StreamUnavailableError as error:
                failure = error
        if failure and not answered:
            raise failure
        return False

    def _has_room(self, server: str) -> bool:
        used, clock = read_vitals(self._connection, server)
        if clock is not None:
            self._compare(clock)
        if used is None and self._may_ask:
            self._may_ask = False
            say(logging.WARNING, "this user may not ask Redis for INFO: events are sent without a look at its memory")
        return used is None or used <= self._memory_limit

    def _compare(self, clock: float) -> None:
        """Log once that the clock of this process is not that of Redis."""
        ahead = time.time() - clock
        if abs(ahead) > MAX_CLOCK_DIFFERENCE.total_seconds() and not self._clock_differs:
            self._clock_differs = True
            side = "ahead of" if ahead > 0 else "behind"
            say(
                logging.WARNING,
                "the clock of this machine is %.0f s %s that of Redis; events get its time",
                abs(ahead),
                side,
            )


def warn_of(concern: Concern) -> None:
    """Log what loses or refuses events; the rest is for the workers' operator."""
    if concern.state == "fail":
        say(logging.WARNING, "%s", concern)
