"""The accounting of a shard in Redis: how many entries were counted, and how many vanished.

Redis numbers the entries that were ever added to a stream (`entries-added` of XINFO STREAM). What was added, was not
counted and does not wait, has vanished: trimmed (XTRIM, MAXLEN), deleted by somebody else (XDEL, DEL) or evicted. The
hash `usage:counted:{N}` has the fields

- `entries`: entries that `done` deleted;
- `base`: `entries-added` when the accounting began, less what waited then, so that
  vanished = entries-added - base - entries - XLEN;
- `added`, `vanished`, `vanished_at`: `entries-added` and the figure at the last look, and when it last grew.

A stream that was deleted and made again begins with `entries-added` 0. What waited at the last look has then vanished,
and a new base continues the figure. FLUSHDB deletes the hash with the streams, so nothing can be told after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.queue.own_keys import FIELDS, OWN, WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.queue.connection import RedisConnection

# Redis lets a script with `allow-oom` write where it is full; the hash of a shard takes a few hundred bytes.
# Where one is not a number of ours, the accounting begins again; the figure goes on, if it is one.
_LOOK = (
    f"#!lua flags=allow-oom\n{OWN}{FIELDS}{WHOLE}"
    """
local stream, counted = KEYS[1], KEYS[2]
local keep = ARGV[1] ~= 'only look'
if keep then own(counted, 'hash') end

local function look()
  local info = redis.pcall('XINFO', 'STREAM', stream)
  -- Where this user may not ask, nothing has vanished for that.
  local unknown = info.err and not info.err:find('no such key') and not info.err:find('WRONGTYPE')
  local fields = fields_of(info)
  local added, length = fields['entries-added'] or 0, fields['length'] or 0
  local kept = redis.pcall('HMGET', counted, 'base', 'entries', 'added', 'vanished', 'vanished_at')
  local base, entries, before = whole(kept[1], -math.huge), whole(kept[2]), whole(kept[3])
  local vanished, at = whole(kept[4]), whole(kept[5])
  local now = redis.call('TIME')
  if at and at > tonumber(now[1]) then at = nil end
  -- The sum is what was added and did not wait when the base was noted, and grows since then.
  local known = base and entries and before and vanished and base + entries + vanished >= 0
  entries, vanished = entries or 0, vanished or 0
  if unknown then return {vanished, at and now[1] - at or -1} end
  if not known then
    base = added - length - entries - vanished
  elseif added < before or added - base - entries - length < vanished then
    base = added - length - entries - math.max(before - base - entries, vanished)
  end
  local gone = added - base - entries - length
  if gone > vanished then at = now[1] end
  if keep then redis.call('HSET', counted, 'base', base, 'entries', entries, 'added', added, 'vanished', gone) end
  if keep and at then redis.call('HSET', counted, 'vanished_at', at) end
  return {gone, at and now[1] - at or -1}
end
"""
)
_VANISHED = f"{_LOOK}\nreturn look()"
# Looks first, so that `added` is as new as `entries`.
# 1,000 at a time, since `unpack` takes less than 8,000 values.
_DONE = f"""{_LOOK}
look()
local deleted = 0
for first = 2, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  deleted = deleted + redis.call('XDEL', stream, unpack(ARGV, first, last))
  redis.call('XACK', stream, ARGV[1], unpack(ARGV, first, last))
end
-- Not a number only where this user may not look: without it, the next look begins the accounting again.
local sum = redis.pcall('HINCRBY', counted, 'entries', deleted)
if type(sum) == 'table' then redis.call('HDEL', counted, 'entries') end
local now = redis.call('TIME')
return now[1] * 1000 + math.floor(now[2] / 1000)
"""


class Vanished(NamedTuple):
    """How many entries left a shard uncounted, and how many seconds ago that was last noticed (None: never)."""

    entries: int
    seconds: float | None


class Accounting:
    """The accounting of all shards. Every method raises StreamUnavailableError."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def done(self, stream: str, group: str, entry_ids: Sequence[str], *, shard: int) -> int:
        """Delete and acknowledge entries, and count those that were deleted here.

        One script, so that the figures are exact whatever dies; a full Redis allows it, unlike MULTI.

        Returns:
            The time by Redis' clock, in milliseconds since 1970.
        """
        with self._connection.client(stream) as client:
            script = client.register_script(_DONE)
            now: Any = script([stream, counted_key(shard)], [group, *entry_ids])
        return int(now)

    def vanished(self, stream: str, shard: int, *, keep: bool = True) -> Vanished:
        """Look at a shard: return what vanished; unless `keep` is false, note it, and begin an accounting."""
        with self._connection.client(stream) as client:
            arguments = [] if keep else ["only look"]
            reply: Any = client.register_script(_VANISHED)([stream, counted_key(shard)], arguments)
        entries, seconds = reply
        return Vanished(entries, None if seconds < 0 else float(seconds))


def counted_key(shard: int) -> str:
    """Return the key of a shard's accounting."""
    return f"usage:counted:{{{shard}}}"
