"""PostgreSQL: whether it answers and can be written, and the version of the schema."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from usage_worker.errors import MigrationError, RoleError
from usage_worker.migrate import latest_version, schema_version
from usage_worker.monitoring.check import fail, warn
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.monitoring.remedies import explained
from usage_worker.postgres import MIGRATE_UP
from usage_worker.store.servers import each_server, server_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Figures, Inspection

SCHEMA_CHECK = "schema"
# Seconds.
SUCCEEDED_LATELY = 30.0


def _postgresql(inspection: Inspection) -> Iterator[Check]:
    # Outside the pool, which would try again for five seconds.
    with inspection.store.session() as connection:
        inspection.figures.server = server = server_of(connection)
    inspection.figures.clocks["PostgreSQL"] = server.clock - time.time()
    if _flushes_succeed(inspection.figures):
        return
    if server.is_standby:
        yield fail("read_only", "the server is a standby", "give the workers the DATABASE_URL of the primary")
    elif server.is_read_only:
        remedy = (
            "find out why (a full disk, a demoted primary), then ALTER DATABASE … RESET default_transaction_read_only"
        )
        yield fail("read_only", "transactions of this database are read-only", remedy)


def _servers(inspection: Inspection) -> Iterator[Check]:
    """Compare the servers of which DATABASE_URL names several."""
    settings = inspection.settings
    servers = each_server(settings.require_database(), pooled=settings.pooled)
    inspection.figures.servers = {place: found and str(found) for place, found in servers.items()}
    written = [place for place, found in servers.items() if found and not (found.is_standby or found.is_read_only)]
    if len(written) > 1:
        reason = f"{' and '.join(written)} both take writes: what one counts, the other does not have"
        yield fail(
            "servers", reason, "stop the one that was demoted, and make it a standby: docs/postgresql-failover.md"
        )
    if silent := [place for place, found in servers.items() if not found]:
        reason = f"{', '.join(silent)} does not answer: no failover to it is possible"
        yield warn("servers", reason, "start it, or take it out of DATABASE_URL")


def _flushes_succeed(figures: Figures) -> bool:
    """Return whether workers can write, even where the role of the status, or its standby, cannot."""
    return any(
        it.succeeded_seconds is not None and it.succeeded_seconds < SUCCEEDED_LATELY and not it.is_failing
        for it in (figures.flushes or {}).values()
    )


def _schema(inspection: Inspection) -> Iterator[Check]:
    settings = inspection.settings
    try:
        version = schema_version(settings.require_database(), pooled=settings.pooled)
    except (MigrationError, RoleError) as error:  # only a role or a limit of time: nothing is being migrated here
        reason, remedy = explained(error)
        yield fail(SCHEMA_CHECK, f"its version cannot be read: {reason}", remedy)
        return
    inspection.figures.schema = version
    if version != (latest := latest_version()):
        reason = f"the database has the schema {version or 'of no version'}, and this code needs {latest}"
        yield fail(SCHEMA_CHECK, reason, MIGRATE_UP)


POSTGRESQL_SECTION = Section((POSTGRESQL, "read_only"), _postgresql)
SERVERS = Section(("servers",), _servers, needs=(POSTGRESQL,))
SCHEMA = Section((SCHEMA_CHECK,), _schema, needs=(POSTGRESQL,))
