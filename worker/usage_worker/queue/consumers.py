"""The consumers of the group: a worker process is one, and its name stays in Redis when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.queue.own_keys import FIELDS

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

# A live worker reads every few seconds, unless another one has the claim for long; without entries in hand, a
# consumer that was removed by mistake is made again by its next read.
DEAD_SECONDS = 3600
# One script: XGROUP DELCONSUMER would drop an entry that the consumer reads after the look.
_SWEEP = (
    f"#!lua flags=allow-oom\n{FIELDS}"
    """
local consumers, removed = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1]), 0
for _, consumer in ipairs(consumers) do
  local fields = fields_of(consumer)
  if fields.pending == 0 and fields.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], fields.name)
    removed = removed + 1
  end
end
return removed
"""
)


def sweep_consumers(connection: RedisConnection, stream: str, group: str, idle: float) -> int:
    """Remove the consumers without pending entries that did not read for `idle` seconds; return their number.

    Raises:
        StreamUnavailableError: Redis did not answer.
    """
    return int(connection.script(_SWEEP, [stream], group, int(idle * 1000)))
