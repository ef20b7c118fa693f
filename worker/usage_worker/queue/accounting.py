"""The accounting of a shard in Redis: how many entries were counted, and how many vanished.

Redis numbers the entries that were ever added to a stream (`entries-added` of XINFO STREAM). What was added, was not
counted and does not wait, has vanished: trimmed (XTRIM, MAXLEN), deleted by somebody else (XDEL, DEL), evicted, or lost
with a server whose replica or whose file did not have it yet. The hash `usage:counted:{N}` has the fields

- `entries`: entries that `done` deleted, or had deleted before the deletion itself was lost with a server;
- `base`: `entries-added` when the accounting began, less what waited then, so that
  vanished = entries-added - base - entries - XLEN;
- `added`, `vanished`, `vanished_at`: `entries-added` and the figure at the last look, and when it last grew;
- `history`, `start`, `lost`: see `queue/lost_entries.py`.

A stream that was deleted and made again begins with `entries-added` 0. What waited at the last look has then vanished,
and a new base continues the figure. FLUSHDB deletes the hash with the streams, so nothing can be told after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.queue.lost_entries import LOST, Seen
from usage_worker.queue.own_keys import FIELDS, OWN, WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.queue.connection import RedisConnection

_ONLY_LOOK = "only look"
# Redis lets a script with `allow-oom` write where it is full; the hash of a shard takes a few hundred bytes.
# Where one is not a number of ours, the accounting begins again; the figure goes on, if it is one.
_LOOK = (
    f"#!lua flags=allow-oom\n{OWN}{FIELDS}{WHOLE}{LOST}"
    """
local stream, counted, group = KEYS[1], KEYS[2], ARGV[1]
local keep = ARGV[2] == ''
local seen = {history = ARGV[3], total = tonumber(ARGV[4]), unread = tonumber(ARGV[5]), last_id = ARGV[6]}
if keep then own(counted, 'hash') end

local function look()
  local info = redis.pcall('XINFO', 'STREAM', stream)
  -- Where this user may not ask, nothing has vanished for that.
  local unknown = info.err and not info.err:find('no such key') and not info.err:find('WRONGTYPE')
  local fields = fields_of(info)
  local added, length = fields['entries-added'] or 0, fields['length'] or 0
  local kept = redis.pcall('HMGET', counted, 'base', 'entries', 'added', 'vanished', 'vanished_at', 'lost')
  local base, entries, before = whole(kept[1], -math.huge), whole(kept[2]), whole(kept[3])
  local vanished, at, lost = whole(kept[4]), whole(kept[5]), whole(kept[6]) or 0
  local now = redis.call('TIME')
  if at and at > tonumber(now[1]) then at = nil end
  -- The sum is what was added and did not wait when the base was noted, and grows since then.
  local known = base and entries and before and vanished and base + entries + vanished >= 0
  entries, vanished = entries or 0, vanished or 0
  if unknown then return {{vanished, at and now[1] - at or -1, lost}, false} end
  if not known then
    base = added - length - entries - vanished
  elseif added < before or added - base - entries - length < vanished then
    base = added - length - entries - math.max(before - base - entries, vanished)
  end
  local history = keep and history_here() or ''
  if history ~= '' then
    local missing, uncounted = missing_of(seen, history, added - base, length)
    base, entries, lost = base - missing, entries + missing - uncounted, lost + uncounted
  end
  local gone = added - base - entries - length
  if gone > vanished then at = now[1] end
  if keep then
    redis.call('HSET', counted, 'base', base, 'entries', entries, 'added', added, 'vanished', gone, 'lost', lost)
  end
  if keep and at then redis.call('HSET', counted, 'vanished_at', at) end
  local last_id = fields['last-generated-id'] or '0-0'
  return {{gone, at and now[1] - at or -1, lost}, {history, added - base, unread_of(length), last_id}}
end
"""
)
_VANISHED = f"{_LOOK}\nreturn look()"
# Looks first, so that `added` is as new as `entries`.
# 1,000 at a time, since `unpack` takes less than 8,000 values.
_DONE = f"""{_LOOK}
local looked = look()
local deleted = 0
for first = 7, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  deleted = deleted + redis.call('XDEL', stream, unpack(ARGV, first, last))
  redis.call('XACK', stream, group, unpack(ARGV, first, last))
end
-- Not a number only where this user may not look: without it, the next look begins the accounting again.
local sum = redis.pcall('HINCRBY', counted, 'entries', deleted)
if type(sum) == 'table' then redis.call('HDEL', counted, 'entries') end
local now = redis.call('TIME')
return {{now[1] * 1000 + math.floor(now[2] / 1000), looked[2]}}
"""


class Vanished(NamedTuple):
    """How many entries left a shard uncounted, and how many seconds ago that was last noticed (None: never).

    `lost` of them went with a server whose place a replica took, or that was restarted without its last writes.
    """

    entries: int
    seconds: float | None
    lost: int = 0


class Accounting:
    """The accounting of all shards for one group. Every method raises StreamUnavailableError.

    A process remembers what it saw of the shards that it counts (`watch`, `done`), and tells it to Redis at the next
    look: a server that then has less has lost it.
    """

    def __init__(self, connection: RedisConnection, group: str) -> None:
        self._connection, self._group = connection, group
        self._seen: dict[int, Seen] = {}

    def done(self, stream: str, entry_ids: Sequence[str], *, shard: int) -> int:
        """Delete and acknowledge entries, and count those that were deleted here.

        One script, so that the figures are exact whatever dies; a full Redis allows it, unlike MULTI.

        Returns:
            The time by Redis' clock, in milliseconds since 1970.
        """
        keys = [stream, counted_key(shard)]
        now, seen = self._connection.script(_DONE, keys, *self._arguments(shard), *entry_ids)
        self._remember(shard, seen)
        return int(now)

    def vanished(self, stream: str, shard: int, *, keep: bool = True) -> Vanished:
        """Look at a shard: return what vanished; unless `keep` is false, note it, and begin an accounting."""
        entries, seconds, lost = self._look(stream, shard, [self._group, "" if keep else _ONLY_LOOK, *Seen()])[0]
        return Vanished(entries, None if seconds < 0 else float(seconds), lost)

    def watch(self, stream: str, shard: int) -> None:
        """Look at a shard as the process that counts it, which remembers what it saw."""
        self._remember(shard, self._look(stream, shard, self._arguments(shard))[1])

    def was_read(self, shard: int, entries: int) -> None:
        """Note that this process has read entries: it counts them, whatever becomes of Redis."""
        if seen := self._seen.get(shard):
            self._seen[shard] = seen._replace(unread=max(seen.unread - entries, 0))

    def leave(self, shard: int) -> None:
        """Forget a shard that another process may count from now on: what this one has seen of it grows old."""
        self._seen.pop(shard, None)

    def _look(self, stream: str, shard: int, arguments: list[str | int | bytes]) -> Any:
        return self._connection.script(_VANISHED, [stream, counted_key(shard)], *arguments)

    def _arguments(self, shard: int) -> list[str | int | bytes]:
        return [self._group, "", *self._seen.get(shard, Seen())]

    def _remember(self, shard: int, seen: list[Any] | None) -> None:
        if seen and seen[0]:
            self._seen[shard] = Seen(*seen)
        else:
            self.leave(shard)


def counted_key(shard: int) -> str:
    """Return the key of a shard's accounting."""
    return f"usage:counted:{{{shard}}}"
