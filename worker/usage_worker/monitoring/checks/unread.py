"""Entries where no worker looks at once: of publishers with more shards, or with another database number."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from usage_worker.errors import StreamUnavailableError
from usage_worker.monitoring.check import fail, warn
from usage_worker.monitoring.checks.shards import longest_wait
from usage_worker.monitoring.inspection import REDIS, Section
from usage_worker.queue.unread import foreign_databases, waiting_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection


def _unread(inspection: Inspection) -> Iterator[Check]:
    stream = inspection.stream
    shards = inspection.figures.shards or stream.shards
    inspection.figures.foreign_shards = beyond = waiting_entries(stream, shards)
    if beyond:
        yield _beyond(beyond, shards, inspection)
    # Where this user may not look into other databases, nothing can be said about them.
    with suppress(StreamUnavailableError):
        for database, entries in foreign_databases(stream, shards).items():
            reason = f"{entries:,} entries lie in database {database} of this Redis, in which no worker was ever seen"
            yield fail("foreign_database", reason, "give applications and workers the same database in REDIS_URL")


def _beyond(entries: dict[int, int], shards: int, inspection: Inspection) -> Check:
    """Warn of entries that wait for the next heartbeat, and fail where they have waited for longer than that."""
    oldest = max(inspection.stream.backlog(shard).oldest_seconds for shard in entries)
    listed = ", ".join(f"{number:,} in shard {shard}" for shard, number in entries.items())
    reason = f"the workers have {shards} shards, and entries wait beyond: {listed}, the oldest for {oldest:.0f} s"
    number = f"set USAGE_STREAM_SHARDS={max(entries) + 1}, or what the applications have, for all processes"
    if oldest > longest_wait(inspection.settings):
        return fail("foreign_shards", reason, f"run `usage-worker drain`; {number}")
    return warn("foreign_shards", f"{reason}; workers look there every 10 s only", number)


UNREAD = Section(("foreign_shards", "foreign_database"), _unread, needs=(REDIS,))
