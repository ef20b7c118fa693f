"""Room: connections of PostgreSQL, and the disks of servers on this machine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from usage_worker.monitoring.check import fail, ok, unknown, warn
from usage_worker.monitoring.inspection import POSTGRESQL, REDIS, Section
from usage_worker.queue.server_details import is_local
from usage_worker.store.queries import query
from usage_worker.wording import short_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

USED_CONNECTIONS = 0.8
# Shares of the disk that are free: PostgreSQL stops where there is nothing left, and Redis refuses every write.
LOW_DISK, FULL_DISK = 0.1, 0.02


def _connections(inspection: Inspection) -> Iterator[Check]:
    (found,) = inspection.store.rows(query("connections"))
    limits = [("max_connections", found["used"], found["server_limit"])]
    if found["role_limit"] >= 0:
        limits.append(("the limit of this role", found["of_role"], found["role_limit"]))
    for name, used, limit in limits:
        if used > USED_CONNECTIONS * limit:
            reason = f"{used} of {limit} sessions that {name} allows are taken, {found['ours']} of them by usage-worker"
            remedy = "raise it, or put a pooler in between and set USAGE_POOLED=1; a worker process takes one"
            yield warn("connections", reason, remedy)
    listed = ", ".join(f"{used} of {limit} ({name})" for name, used, limit in limits)
    yield ok("connections", f"{listed}; {found['ours']} are of usage-worker")


def _postgresql_disk(inspection: Inspection) -> Iterator[Check]:
    (found,) = inspection.store.rows(query("data_folder"))
    yield _disk("postgresql_disk", found["folder"] if found["is_local"] else None)


def _redis_disk(inspection: Inspection) -> Iterator[Check]:
    local = is_local(inspection.settings.redis_url)
    for folder in {it.folder for it in inspection.redis_details.values()}:
        yield _disk("redis_disk", folder if local else None)


def _disk(name: str, folder: str | None) -> Check:
    """Judge the disk of a data folder on this machine; of another one it is not known."""
    try:
        usage = shutil.disk_usage(folder) if folder else None
    except OSError:
        usage = None
    if usage is None:
        return unknown(name, "no data folder of it is seen on this machine", "watch the disk where it runs")
    found = f"{short_bytes(usage.free)} of {short_bytes(usage.total)} are free"
    if usage.free < LOW_DISK * usage.total:
        return (fail if usage.free < FULL_DISK * usage.total else warn)(name, found, "make room, or use a larger disk")
    return ok(name, found)


CONNECTIONS = Section(("connections",), _connections, needs=(POSTGRESQL,), optional=True)
POSTGRESQL_DISK = Section(("postgresql_disk",), _postgresql_disk, needs=(POSTGRESQL,), optional=True)
REDIS_DISK = Section(("redis_disk",), _redis_disk, needs=(REDIS,), optional=True)
