"""Schema migrations: `Runner` moves a database between the versions, `schema_version` says where it is."""

from __future__ import annotations

from worker.migrate.files import EMPTY, Migration, discover, latest_version
from worker.migrate.ledger import MigrationStatus, Status
from worker.migrate.marks import Kept
from worker.migrate.runner import Runner, Step, schema_version
from worker.migrate.verify import Deviation

__all__ = [
    "EMPTY",
    "Deviation",
    "Kept",
    "Migration",
    "MigrationStatus",
    "Runner",
    "Status",
    "Step",
    "discover",
    "latest_version",
    "schema_version",
]
