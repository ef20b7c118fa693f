"""Versions: of the packages, of both servers, and of the processes beside this one."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from usage_worker.monitoring.check import fail, ok, warn
from usage_worker.monitoring.inspection import POSTGRESQL, REDIS, Section
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

PACKAGE = "usage-worker"
SHOWN = ("celery", "kombu", "redis", "psycopg")
LEAST_POSTGRESQL = 15
# From this version on, an update stays in its page although BRIN indexes have its columns.
BEST_POSTGRESQL = 16


def _packages(_: Inspection) -> Iterator[Check]:
    for needed in map(Requirement, requires(PACKAGE) or []):
        if needed.marker is None or needed.marker.evaluate({"extra": "server"}):
            installed = _version(needed.name)
            if installed is None or not needed.specifier.contains(installed, prereleases=True):
                reason = (
                    f"{needed.name} {installed or 'is not installed'}, and {needed.name}{needed.specifier} is needed"
                )
                yield fail("packages", reason, f"pip install '{PACKAGE}[server]'")
    shown = ", ".join(f"{name} {_version(name)}" for name in SHOWN)
    yield ok("packages", f"{PACKAGE} {version(PACKAGE)}, Python {platform.python_version()}, {shown}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _redis_version(inspection: Inspection) -> Iterator[Check]:
    """Tell the version; one that is too old fails the check of Redis."""
    found = {f"{it.facts.product} {it.facts.version}" for it in inspection.redis_details.values()}
    yield ok("redis_version", ", ".join(sorted(found)))


def _worker_versions(inspection: Inspection) -> Iterator[Check]:
    own, alive = version(PACKAGE), inspection.figures.alive
    for record in alive:
        if record.process.version != own:
            reason = f"{record.name} runs {record.process.version}, and this command is {own}"
            yield warn("worker_versions", reason, "install the same version everywhere, and restart the workers")
    yield ok("worker_versions", f"{len(alive)} processes, this command is {own}")


def _postgresql_version(inspection: Inspection) -> Iterator[Check]:
    (found,) = inspection.store.rows(query("postgresql_versions"))
    major = found["number"] // 10_000
    if major < LEAST_POSTGRESQL:
        yield fail("postgresql_version", f"PostgreSQL {found['version']}", "upgrade it to 15 or newer, best to 16")
    elif major < BEST_POSTGRESQL:
        reason = f"PostgreSQL {found['version']}: each update of a counter writes to every index of its table"
        yield warn("postgresql_version", reason, "upgrade it to 16 or newer")
    else:
        yield ok("postgresql_version", f"PostgreSQL {found['version']}")
    if found["vector"]:
        yield ok("pgvector", f"pgvector {found['vector']}")
    else:
        could = f"the server has {found['available']}" if found["available"] else "the server has none"
        yield ok("pgvector", f"not installed, {could}; only a search over many vectors needs it")


PACKAGES = Section(("packages",), _packages, optional=True)
REDIS_VERSION = Section(("redis_version",), _redis_version, needs=(REDIS,), optional=True)
WORKER_VERSIONS = Section(("worker_versions",), _worker_versions, needs=(REDIS,), optional=True)
POSTGRESQL_VERSION = Section(
    ("postgresql_version", "pgvector"), _postgresql_version, needs=(POSTGRESQL,), optional=True
)
