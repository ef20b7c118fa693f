"""Entries that a server has lost: its replica took its place, or it was restarted, without the last writes.

Redis replicates asynchronously, and syncs its file once a second. What comes back is an earlier state of the stream and
of the accounting, so it cannot know what is missing: the processes that count remember what they saw (`Seen`), and tell
it with their next look. The `history` is the replication id of the server, which changes whenever a replica is
promoted or a server restarted, and with nothing else; within one history nothing is ever missing.

- Missing: the entries between the number that was seen and the number here, less those that came since, whose ids are
  later.
- Lost: those missing ones that nobody had read.
- Read: the other missing ones. The process that read them counts them.

Lost and read ones go into the accounting of the shard, so that what several processes saw is noted once.

The figure is a lower bound: it cannot have what was added after the last look before the server died, nor what was
read by a process that died with it.
"""

from __future__ import annotations

from typing import NamedTuple


class Seen(NamedTuple):
    """What a process saw of a shard, as a script returns and takes it."""

    history: bytes = b""
    total: int = 0
    """The number of entries since the accounting began."""
    unread: int = 0
    """Those at the end that no process had read."""
    last_id: bytes = b""
    """The id of the last entry."""


# Functions for the scripts of `queue/accounting.py`, with its `stream`, `counted` and `group` as KEYS and ARGV[1].
LOST = """
-- Empty where this user may not ask.
local function history_here()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and info:match('master_replid:(%x+)') or ''
end

-- What no process has read: neither pending nor counted. 0 without a group, whose entries are read all the same.
local function unread_of(length)
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  if groups.err then return 0 end
  for _, list in ipairs(groups) do
    local fields = fields_of(list)
    if fields['name'] == ARGV[1] then return math.max(length - fields['pending'], 0) end
  end
  return 0
end

-- Entries with later ids, a thousand at most; few at once, since Redis copies what they hold.
local function later_than(id)
  local count, from = 0, '(' .. id
  while count < 1000 do
    local part = redis.pcall('XRANGE', KEYS[1], from, '+', 'COUNT', 20)
    if part.err or #part == 0 then break end
    count, from = count + #part, '(' .. part[#part][1]
  end
  return count
end

-- How many entries of another history this one lacks, and how many of them nobody had read.
local function missing_of(seen, history, total, length)
  local kept = redis.pcall('HMGET', KEYS[2], 'history', 'start')
  -- The number at the first look in this history: what was added since cannot hide what is missing.
  local start = kept[1] == history and whole(kept[2]) or total
  local missing, unread = 0, 0
  if seen.history ~= '' and seen.history ~= history and seen.total > math.min(start, total - length) then
    missing = math.max(seen.total - math.min(start, total - later_than(seen.last_id)), 0)
    unread = math.min(missing, seen.unread)
  end
  redis.call('HSET', KEYS[2], 'history', history, 'start', start + missing)
  return missing, unread
end
"""
