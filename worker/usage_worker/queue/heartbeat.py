"""The heartbeat: beat sends tasks, and a worker executes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

    from usage_worker.queue.connection import RedisConnection

HEARTBEAT_KEY = "usage:heartbeat"


class Heartbeat:
    """The time of the last heartbeat, by Redis' own clock. Every method raises StreamUnavailableError."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def beat(self) -> None:
        """Note the current time."""
        with self._connection.client() as client:
            client.set(HEARTBEAT_KEY, _now(client))

    def age(self) -> float | None:
        """Return the seconds since the last heartbeat, or None where there was none."""
        with self._connection.client() as client:
            beat: Any = client.get(HEARTBEAT_KEY)
            return None if beat is None else max(_now(client) - float(beat), 0.0)


def _now(client: redis.Redis) -> float:
    reply: Any = client.time()
    return float(reply[0] + reply[1] / 1e6)
