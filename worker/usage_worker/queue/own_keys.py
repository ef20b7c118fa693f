"""Our keys in Redis, where anybody may have written something else under their names.

What is only an aid (records, claims, deaths, the accounting) is ours to replace; otherwise one `SET usage:processes x`
would stop the counting or blind the status until somebody deletes the key. The streams hold events: nothing replaces
them.
"""

from __future__ import annotations

import math
from typing import Any

from redis.exceptions import RedisError

# What is longer was not written by us: a sum of such numbers is exact in Lua, whose numbers are doubles.
_DIGITS = 15
# A time may be so many seconds ahead, after Redis' clock was set back.
AHEAD_SECONDS = 60.0
# A function for scripts: afterwards the key is of this kind or does not exist.
OWN = """
local function own(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
end
"""
# A function for scripts: a whole number that we have written, nil where there is none, or something else.
WHOLE = f"""
local function whole(text, least)
  local number = type(text) == 'string' and #text <= {_DIGITS} and text:find('^%-?%d+$') and tonumber(text)
  if number and number >= (least or 0) then return number end
end
"""
# A function for scripts: XINFO answers with a list of names and values.
FIELDS = """
local function fields_of(list)
  local fields = {}
  for i = 1, #list, 2 do fields[list[i]] = list[i + 1] end
  return fields
end
"""


def is_wrong_type(error: Exception) -> bool:
    """Return whether Redis refused a command because a key holds something of another type."""
    return "WRONGTYPE" in str(error)


def answered(answer: Any, *, otherwise: Any) -> Any:
    """Return the answer to a command of a pipeline, or `otherwise` where the key holds something of another type.

    Raises:
        RedisError: the answer is any other error.
    """
    if not isinstance(answer, RedisError):
        return answer
    if is_wrong_type(answer):
        return otherwise
    raise answer


def time_in(text: bytes | None) -> float | None:
    """Return a time in seconds since 1970 that we have written, None where there is none, or something else."""
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        return None
    return value if 0 <= value < 10**_DIGITS else None


def age_of(text: bytes | None, now: float) -> float | None:
    """Return the seconds since a time that we have written, None where there is none, or something else."""
    time = time_in(text)
    return None if time is None or time > now + AHEAD_SECONDS else max(now - time, 0.0)


def whole(text: bytes | None) -> int:
    """Return a count that we have written, 0 where there is none, or something else."""
    return int(text) if text and text.isdigit() and len(text) <= _DIGITS else 0
