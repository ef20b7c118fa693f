"""The tombstones of erased users a second time, outside of PostgreSQL: a restored backup lacks the newest ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.events.tombstones import HASH_BYTES, KEY_ID_BYTES, Tombstone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usage_worker.queue.connection import RedisConnection

FORGOTTEN_KEY = "usage:forgotten"
# Members that are sent or read at once.
_CHUNK = 1_000


class ForgottenSet:
    """The set of tombstones in Redis. Every method raises StreamUnavailableError."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def add(self, tombstones: Iterable[Tombstone]) -> None:
        """Add tombstones."""
        members = [it.key_id + it.hash for it in tombstones]
        with self._connection.client(FORGOTTEN_KEY) as client:
            for start in range(0, len(members), _CHUNK):
                client.sadd(FORGOTTEN_KEY, *members[start : start + _CHUNK])

    def all(self) -> set[Tombstone]:
        """Return every tombstone; other members are left out."""
        with self._connection.client(FORGOTTEN_KEY) as client:
            members = set(client.sscan_iter(FORGOTTEN_KEY, count=_CHUNK))
        length = KEY_ID_BYTES + HASH_BYTES
        return {Tombstone(it[KEY_ID_BYTES:], it[:KEY_ID_BYTES]) for it in members if len(it) == length}
