"""Redis' clock goes back, or that of the replica that takes over is behind: what workers left is taken over as ever."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.helpers import eventually
from usage_worker.queue.entry import Pack
from usage_worker.queue.holding import KEPT_SECONDS, mark_key
from usage_worker.queue.oldest_entry import oldest_entry
from usage_worker.queue.stream import EventStream

if TYPE_CHECKING:
    import redis

IDLE = 0.2
HOUR = 3_600
# CRC-64 of Jones, reversed, as in Redis' crc64.c.
POLYNOMIAL = 0x95AC9329AC4BC9B5


@pytest.mark.parametrize(("reader", "deaths"), [("dead", 1), ("own", 0)])
def test_entries_in_hand_are_taken_over(redis_url: str, redis_client: redis.Redis, reader: str, deaths: int) -> None:
    with closing(EventStream(redis_url, 1)) as stream:
        stream.append((0, Pack.of_objects(uuid4(), [b"{}"])) for _ in range(150))
        stream.reclaim(0, reader, 1, IDLE)  # leaves its mark
        assert len(stream.read(0, reader, 149)) == 149
        turn_back(redis_client, stream.key(0))
        redis_client.expire(mark_key(0, reader), KEPT_SECONDS + HOUR)
        assert stream.reclaim(0, "own", 200, IDLE) is None
        reclaimed = eventually(lambda: stream.reclaim(0, "own", 200, IDLE) or [])
        assert {entry.deaths for entry in reclaimed} == {deaths}
        oldest = oldest_entry(stream, 0)
        assert len(reclaimed) == 149
        assert oldest
        assert oldest.deliveries == 2


def turn_back(client: Any, key: str) -> None:
    """Make the entries in hand delivered an hour later: no command of Redis accepts a time in the future."""
    details = client.execute_command("XINFO", "STREAM", key, "FULL", "COUNT", 0)
    (group,) = details[b"groups"]
    dumped = client.dump(key)
    body = dumped[:-8]
    for time in {delivered for _, _, delivered, _ in group[b"pending"]}:
        body = body.replace(time.to_bytes(8, "little"), (time + HOUR * 1000).to_bytes(8, "little"))
    client.restore(key, 0, body + crc64(body).to_bytes(8, "little"), replace=True)


def crc64(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    return crc
