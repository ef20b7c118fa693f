"""The memory and the clock of Redis, as far as the user of REDIS_URL may ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import NoPermissionError, RedisError, ResponseError

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

# Celery shares Redis with the stream and cannot even acknowledge when Redis is full, so senders stop well before.
REDIS_MEMORY_LIMIT = 0.8


class Vitals(NamedTuple):
    """The share of `maxmemory` in use (0.0 without a limit), and the time in seconds since 1970.

    None is what this user may not ask, or what the server's configuration renamed.
    """

    memory_used: float | None
    clock: float | None


def read_vitals(connection: RedisConnection, name: str = "") -> Vitals:
    """Ask one of the servers for both in one round trip.

    Raises:
        StreamUnavailableError: Redis does not answer.
    """
    with connection.server(name) as client:
        pipeline = client.pipeline(transaction=False)
        pipeline.info("memory")
        pipeline.time()
        info, clock = map(_allowed, pipeline.execute(raise_on_error=False))
    return Vitals(
        None if info is None else memory_share(info),
        None if clock is None else seconds_of(clock),
    )


def memory_share(info: Any) -> float:
    """Return the share of `maxmemory` in use from the answer to INFO memory."""
    return info["used_memory"] / info["maxmemory"] if info.get("maxmemory") else 0.0


def seconds_of(time: Any) -> float:
    """Return the seconds since 1970 from the answer to TIME."""
    seconds, micros = time
    return float(seconds + micros / 1e6)


def _allowed(answer: Any) -> Any:
    if isinstance(answer, NoPermissionError):
        return None
    if isinstance(answer, ResponseError) and str(answer).startswith("unknown command"):
        return None
    if isinstance(answer, RedisError):
        raise answer
    return answer
