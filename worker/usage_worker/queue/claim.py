"""The claim of a shard: which consumer flushes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import OutOfMemoryError

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

CLAIM_SECONDS = 5
# In one step: between two, the claim could expire and become another's.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class FlushClaim:
    """The claims of one consumer.

    They spare two workers the wait for each other's rows, and nothing else: when one is lost, both may go on.
    Every method raises StreamUnavailableError.
    """

    def __init__(self, connection: RedisConnection, consumer: str) -> None:
        self._connection = connection
        self._consumer = consumer

    def take(self, shard: int) -> bool:
        """Claim a shard for `CLAIM_SECONDS`, or renew the claim; return False when another consumer has it."""
        key = _key(shard)
        with self._connection.client() as client:
            try:
                if client.set(key, self._consumer, nx=True, ex=CLAIM_SECONDS):
                    return True
                return client.get(key) == self._consumer.encode() and bool(client.expire(key, CLAIM_SECONDS))
            except OutOfMemoryError:
                return True

    def release(self, shard: int) -> None:
        """Let another consumer claim the shard."""
        with self._connection.client() as client:
            client.register_script(_RELEASE)(keys=[_key(shard)], args=[self._consumer])


def _key(shard: int) -> str:
    return f"usage:flushing:{{{shard}}}"
