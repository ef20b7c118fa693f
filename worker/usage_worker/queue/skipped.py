"""Entries that the group has skipped: they lie in the stream, are behind what it delivers next, and nobody has them.

`XGROUP SETID usage:events:{0} usage $`, `XGROUP DELCONSUMER` of a consumer with entries in hand, and `XACK` by hand do
that. No read would ever return them, and other entries that are counted meanwhile would hide them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.queue.own_keys import FIELDS

if TYPE_CHECKING:
    from usage_worker.queue.connection import RedisConnection

# Skipped entries stay the oldest ones, while those that workers have in hand are soon deleted.
_MOST, _MOST_PENDING = 1000, 20
# The consumer from which workers reclaim them.
_CONSUMER = "skipped"
# One script: between two commands an entry could be delivered. One entry at a time, since each may be large.
_RETURN = (
    f"#!lua flags=allow-oom\n{FIELDS}"
    """
local stream, group, consumer, idle = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local last
local groups = redis.pcall('XINFO', 'GROUPS', stream)
for _, values in ipairs(groups) do
  local fields = fields_of(values)
  if fields.name == group then last = fields['last-delivered-id'] end
end
local returned, pending, from = 0, 0, '-'
while last and returned < tonumber(ARGV[4]) and pending < tonumber(ARGV[5]) do
  local entry = redis.call('XRANGE', stream, from, last, 'COUNT', 1)[1]
  if not entry then break end
  local id = entry[1]
  if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', idle, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
    returned = returned + 1
  else
    pending = pending + 1
  end
  if id == last then break end
  from = '(' .. id
end
return returned
"""
)


def return_skipped(connection: RedisConnection, stream: str, group: str, idle: float) -> int:
    """Make skipped entries pending for `idle` seconds, so that workers reclaim them; return their number.

    Raises:
        StreamUnavailableError: Redis did not answer.
    """
    arguments = (group, _CONSUMER, int(idle * 1000), _MOST, _MOST_PENDING)
    return int(connection.script(_RETURN, [stream], *arguments))
