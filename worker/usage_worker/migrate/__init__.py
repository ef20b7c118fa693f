"""Schema migrations: `Runner` moves a database between versions, `schema_version` reads the installed one."""

from __future__ import annotations

from usage_worker.migrate.files import EMPTY, Migration, discover, latest_version, version_key
from usage_worker.migrate.journal import MigrationStatus, SchemaStatus
from usage_worker.migrate.marks import Kept
from usage_worker.migrate.move import Step
from usage_worker.migrate.runner import Runner, schema_version
from usage_worker.migrate.verify import Deviation, deviations

__all__ = [
    "EMPTY",
    "Deviation",
    "Kept",
    "Migration",
    "MigrationStatus",
    "Runner",
    "SchemaStatus",
    "Step",
    "deviations",
    "discover",
    "latest_version",
    "schema_version",
    "version_key",
]
