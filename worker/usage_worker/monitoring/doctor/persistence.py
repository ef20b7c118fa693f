"""What of Redis is on its disk after a crash, and whether its memory is bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from usage_worker.monitoring.check import fail, ok, unknown, warn
from usage_worker.monitoring.inspection import REDIS, Section
from usage_worker.wording import short_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection
    from usage_worker.queue.server import ServerFacts
    from usage_worker.queue.server_details import ServerDetails


def _persistence(inspection: Inspection) -> Iterator[Check]:
    for name, details in inspection.redis_details.items():
        for check in _of_server(details):
            yield replace(check, reason=f"{name}: {check.reason}") if name else check


def _of_server(details: ServerDetails) -> Iterator[Check]:
    facts = details.facts
    yield _append_only(facts)
    yield _append_fsync(details.append_fsync)
    if details.failed_writes:
        reason = f"Redis could not write to its disk: INFO says err for {', '.join(details.failed_writes)}"
        yield fail("redis_writes", reason, "see the log of Redis for the reason; usually its disk is full")
    else:
        yield ok(
            "redis_writes", f"succeed; last snapshot {details.since_save:,.0f} s ago, {details.unsaved:,} changes since"
        )
    used = f"{short_bytes(details.used)} in use, {short_bytes(details.peak)} at the peak"
    if not details.limit:
        remedy = "set maxmemory to what the machine can spare, so that publishers see when it is nearly full"
        yield warn("maxmemory", f"no limit, {used}: Redis grows until the system ends it", remedy)
    else:
        yield ok("maxmemory", f"{used}, limit {short_bytes(details.limit)}, {facts.policy or 'policy not shown'}")


def _append_only(facts: ServerFacts) -> Check:
    if facts.append_only:
        return ok("append_only", "appendonly yes")
    # Where neither is on, the check `persistence` says so as well.
    reason = "appendonly no: a crash of Redis loses the events since its last snapshot"
    return warn("append_only", reason, "CONFIG SET appendonly yes, and write it to its configuration")


def _append_fsync(policy: str | None) -> Check:
    if policy is None:
        return unknown("append_fsync", "this server or user has no CONFIG GET", "see the provider's settings")
    if policy == "no":
        reason = "appendfsync no: a crash of the machine loses what its system has not written, some 30 s"
        return warn("append_fsync", reason, "CONFIG SET appendfsync everysec, and write it to its configuration")
    return ok("append_fsync", f"appendfsync {policy}")


PERSISTENCE = Section(
    ("append_only", "append_fsync", "redis_writes", "maxmemory"), _persistence, needs=(REDIS,), optional=True
)
