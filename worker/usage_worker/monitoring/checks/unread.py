"""Entries that no worker reads: of publishers with more shards, or with another database number."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from usage_worker.errors import StreamUnavailableError
from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import REDIS, Section
from usage_worker.queue.unread import foreign_databases, foreign_shards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection


def _unread(inspection: Inspection) -> Iterator[Check]:
    stream = inspection.stream
    shards = inspection.figures.shards or stream.shards
    inspection.figures.foreign_shards = beyond = foreign_shards(stream, shards)
    if beyond:
        listed = ", ".join(f"{entries:,} in shard {shard}" for shard, entries in beyond.items())
        reason = f"entries that no worker reads: {listed}; the workers have {shards} shards, an application has more"
        remedy = f"set USAGE_STREAM_SHARDS={max(beyond) + 1} or what the application has for all processes"
        yield fail("foreign_shards", reason, remedy)
    # Where this user may not look into other databases, nothing can be said about them.
    with suppress(StreamUnavailableError):
        for database, entries in foreign_databases(stream, shards).items():
            reason = f"{entries:,} entries lie in database {database} of this Redis, in which no worker was ever seen"
            yield fail("foreign_database", reason, "give applications and workers the same database in REDIS_URL")


UNREAD = Section(("foreign_shards", "foreign_database"), _unread, needs=(REDIS,))
