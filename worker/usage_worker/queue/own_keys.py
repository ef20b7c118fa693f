"""Our keys in Redis, where anybody may have written something else under their names.

What is only an aid (records, claims, deaths, the accounting) is ours to replace; otherwise one `SET usage:processes x`
would stop the counting or blind the status until somebody deletes the key. The streams hold events: nothing replaces
them.
"""

from __future__ import annotations

import math
from typing import Any

from redis.exceptions import RedisError

# Of the greatest integer of Redis.
_DIGITS = 19
# A function for scripts: afterwards the key is of this kind or does not exist.
OWN = """
local function own(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
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


def number(text: bytes | None) -> float | None:
    """Return a number that we have written, None where there is none, or something else."""
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def whole(text: bytes | None) -> int:
    """Return a count that we have written, 0 where there is none, or something else."""
    # No longer than the integers of Redis: Python refuses to convert thousands of digits.
    return int(text) if text and text.isdigit() and len(text) <= _DIGITS else 0
