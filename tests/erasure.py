"""Where a text stands: every column of every table, and every key of Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    import redis

# Any key will do: the `USAGE_FORGET_KEY` of the tests.
FORGET_KEY = "0123456789abcdef" * 4
TABLES = """
    SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('public', 'auth') AND c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
"""


def naming(url: str, *texts: str) -> set[str]:
    """Return the tables, with every column of each, in which a text stands."""
    # A regular expression of forty users takes ten times as long. The texts are ids and words.
    assert not any(set(text) & set("%_\\") for text in texts)
    patterns = [f"%{text.lower()}%" for text in texts]
    with psycopg.connect(url) as connection:
        tables = [name for (name,) in connection.execute(TABLES)]
        statement = "SELECT count(*) FROM {} AS t WHERE lower(t::text) LIKE ANY(%s)"
        found = {name: connection.execute(statement.format(name).encode(), [patterns]).fetchone() for name in tables}
    return {name for name, row in found.items() if row != (0,)}


def keys_naming(client: redis.Redis, *texts: str) -> list[bytes]:
    """Return the keys of Redis whose value, as it is kept, has a text."""
    keys: Any = client.keys("*")
    dumped: dict[bytes, Any] = {key: _value(client, key) for key in keys}
    return [key for key, value in dumped.items() if any(text in value for text in texts)]


def _value(client: Any, key: bytes) -> str:
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda name: client.lrange(name, 0, -1),
        b"zset": lambda name: client.zrange(name, 0, -1),
        b"stream": client.xrange,
    }
    return str(read[client.type(key)](key))
