"""The claim of a shard: which consumer flushes it, or which message may flush it next.

The flushes of a shard are a chain: each sends for the next. When one ends, its claim becomes the token of the message
that it sends. While the token lasts, only that message flushes the shard: a tick between two flushes of the chain would
begin a second one or, where ticks are frequent and processes few, take the turns of the other shards. Where the token
has expired, since its message was lost or waits for long, a tick begins the chain again, and the former message does
nothing when it comes after that.
"""

from __future__ import annotations

import time
from secrets import token_hex
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.queue.connection import RedisConnection

# A flush that lives renews its claim four times as often; after a death, the next tick begins the chain again.
CLAIM_SECONDS = 10
_NEXT = "next "
# A claim that is not text, or would last longer than one of ours, was written by another program and holds nobody up.
# Small and bounded, so a full Redis takes it as well.
_TAKE = f"""#!lua flags=allow-oom
local holder, left = redis.pcall('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
if type(holder) == 'string' and holder ~= ARGV[1] and holder ~= '{_NEXT}' .. ARGV[3]
  and left >= 0 and left <= ARGV[2] * 1000 then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
_HAND_OVER = f"""#!lua flags=allow-oom
local holder = redis.pcall('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], '{_NEXT}' .. ARGV[2], 'EX', ARGV[3])
return 1
"""
# In one step: between two, the claim could expire and become another's.
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('EXPIRE', KEYS[1], ARGV[2]) end"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class FlushClaim:
    """The claims of one consumer.

    They spare two workers the wait for each other's rows, and nothing else: when one is lost, both may go on.
    Every method raises StreamUnavailableError.
    """

    def __init__(self, connection: RedisConnection, consumer: str) -> None:
        self._connection = connection
        # Two containers may have the same host name and process numbers.
        self._consumer = f"{consumer}-{token_hex(4)}"

    def take(self, shard: int, token: str | None = None) -> bool:
        """Claim a shard for `CLAIM_SECONDS`, or renew the claim.

        Returns False when another consumer has it, or when another message than that of this token flushes it next.
        """
        return bool(self._connection.script(_TAKE, [_key(shard)], self._holder, CLAIM_SECONDS, token or ""))

    def renewal(self, shard: int, deadline: float) -> Callable[[], None]:
        """Return a function that renews this thread's claim, in any thread.

        It does nothing once the claim is lost, or after `deadline`, a time of `time.monotonic`.
        """
        holder = self._holder

        def renew() -> None:
            if time.monotonic() < deadline:
                self._connection.script(_RENEW, [_key(shard)], holder, CLAIM_SECONDS)

        return renew

    def hand_over(self, shard: int) -> str | None:
        """Keep the shard for a message for `CLAIM_SECONDS`; return its token, None when another has the claim."""
        token = token_hex(4)
        handed = self._connection.script(_HAND_OVER, [_key(shard)], self._holder, token, CLAIM_SECONDS)
        return token if handed else None

    def release(self, shard: int) -> None:
        """Let another consumer claim the shard."""
        self._connection.script(_RELEASE, [_key(shard)], self._holder)

    @property
    def _holder(self) -> str:
        """Each thread is a holder of its own: a pool of threads executes several flushes in one process."""
        return f"{self._consumer}-{get_ident()}"


def _key(shard: int) -> str:
    return f"usage:flushing:{{{shard}}}"
