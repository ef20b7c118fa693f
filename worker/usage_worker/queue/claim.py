"""The claim of a shard: which consumer flushes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

CLAIM_SECONDS = 5
# Anything that is not text, or would last longer than a claim, was written by another program and holds nobody up.
# Small and bounded, so a full Redis takes it as well.
_TAKE = """#!lua flags=allow-oom
local holder, left = redis.pcall('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
if type(holder) == 'string' and holder ~= ARGV[1] and left >= 0 and left <= ARGV[2] * 1000 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
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
        with self._connection.client() as client:
            taken: Any = client.register_script(_TAKE)(keys=[_key(shard)], args=[self._consumer, CLAIM_SECONDS])
        return bool(taken)

    def release(self, shard: int) -> None:
        """Let another consumer claim the shard."""
        with self._connection.client() as client:
            client.register_script(_RELEASE)(keys=[_key(shard)], args=[self._consumer])


def _key(shard: int) -> str:
    return f"usage:flushing:{{{shard}}}"
