"""Entries where no worker reads: in shards beyond the workers' number, and in other databases of the same Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.errors import StreamUnavailableError
from usage_worker.queue.processes import PROCESSES_KEY
from usage_worker.settings import MAX_SHARDS

if TYPE_CHECKING:
    from usage_worker.queue.stream import EventStream


def foreign_shards(stream: EventStream, shards: int) -> dict[int, int]:
    """Return the entries of each shard that has some, from the number `shards` on.

    Raises:
        StreamUnavailableError: Redis did not answer.
    """
    beyond = range(shards, MAX_SHARDS)
    keys = [stream.key(shard) for shard in beyond]
    lengths: dict[int, Any] = {}
    for server, places in stream.connection.by_server(keys).items():
        try:
            with stream.connection.server(server) as client:
                pipeline = client.pipeline(transaction=False)
                for place in places:
                    pipeline.xlen(keys[place])
                answers = pipeline.execute(raise_on_error=False)
        except StreamUnavailableError:
            if stream.connection.kind != "cluster":
                raise
            continue  # one node of several, which has a check of its own
        lengths |= {beyond[place]: length for place, length in zip(places, answers, strict=True)}
    return {shard: length for shard, length in sorted(lengths.items()) if isinstance(length, int) and length}


def foreign_databases(stream: EventStream, shards: int) -> dict[int, int]:
    """Return the entries of each other database that has some, and in which no worker was ever seen.

    Raises:
        StreamUnavailableError: Redis did not answer, or this user may not look there.
    """
    if stream.connection.kind == "cluster":
        return {}  # it has one database only
    with stream.connection.server("") as client:
        own = client.get_connection_kwargs().get("db", 0)
        found: Any = client.info("keyspace")
        others = [number for number in (int(name.removeprefix("db")) for name in found) if number != own]
        return {number: entries for number in others if (entries := _unread(client, stream, shards, number, own))}


def _unread(client: Any, stream: EventStream, shards: int, database: int, own: int) -> int:
    # All in one round trip, so that the connection is back in its own database whatever the answers are.
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("SELECT", database)
    pipeline.exists(PROCESSES_KEY)
    for shard in range(shards):
        pipeline.xlen(stream.key(shard))
    pipeline.execute_command("SELECT", own)
    _, was_read, *lengths, _ = pipeline.execute(raise_on_error=False)
    return 0 if was_read else sum(length for length in lengths if isinstance(length, int))
