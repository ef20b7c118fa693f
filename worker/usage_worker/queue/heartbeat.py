"""The heartbeat: beat sends tasks, and a worker executes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.queue.own_keys import age_of, answered, time_in
from usage_worker.queue.vitals import seconds_of

if TYPE_CHECKING:
    import redis

    from usage_worker.queue.connection import RedisConnection

HEARTBEAT_KEY = "usage:heartbeat"
# Seconds between two sweeps of the consumers, which read all their names.
SWEEP_SECONDS = 60


class Heartbeat:
    """The time of the last heartbeat, by Redis' own clock. Every method raises StreamUnavailableError."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def beat(self) -> bool:
        """Note the current time; return whether this is the first heartbeat of a minute, for what need not be often."""
        with self._connection.client(HEARTBEAT_KEY) as client:
            now, before = seconds_of(client.time()), time_in(_last(client))
            client.set(HEARTBEAT_KEY, now)
            return before is None or now // SWEEP_SECONDS > before // SWEEP_SECONDS

    def age(self) -> float | None:
        """Return the seconds since the last heartbeat, or None where there was none."""
        with self._connection.client(HEARTBEAT_KEY) as client:
            beat = _last(client)
            return age_of(beat, seconds_of(client.time()))


def _last(client: redis.Redis) -> bytes | None:
    # Not SET with GET, which refuses a key that another program has written as a list, say; SET alone replaces it.
    pipeline = client.pipeline(transaction=False)
    pipeline.get(HEARTBEAT_KEY)
    (beat,) = pipeline.execute(raise_on_error=False)
    text: bytes | None = answered(beat, otherwise=None)
    return text
