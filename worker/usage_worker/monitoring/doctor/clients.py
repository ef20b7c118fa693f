"""What the role of DATABASE_URL and the user of REDIS_URL may do, against what the processes need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import SettingsError
from usage_worker.monitoring.check import fail, ok
from usage_worker.monitoring.checks.postgresql import SCHEMA_CHECK
from usage_worker.monitoring.inspection import POSTGRESQL, REDIS, Section
from usage_worker.queue.connection import GRANT_USER
from usage_worker.queue.user_rights import missing_rights
from usage_worker.store.queries import query
from usage_worker.store.task_runs import require_owner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

GRANT_ROLE = 'grant it usage_ingest, and what docs/operations.md lists for "Roles"; the owner runs `migrate repair`'
GRANT_OWNER = "let an administrator grant that to it"


def _role(inspection: Inspection) -> Iterator[Check]:
    store = inspection.store
    found = "it owns the tables: it may count, maintain and migrate"
    try:
        require_owner(store)
        owns = True
    except SettingsError as error:
        found, owns = f"it may count: for periodic tasks and migrations, {error.detail}", False
    creates = inspection.settings.unknown == "create"
    if missing := [row["missing"] for row in store.rows(query("missing_rights"), creates=creates, owns=owns)]:
        reason = f"the role of DATABASE_URL lacks {', '.join(missing)}"
        yield fail("database_role", reason, GRANT_OWNER if owns else GRANT_ROLE)
    else:
        yield ok("database_role", found)


def _user(inspection: Inspection) -> Iterator[Check]:
    if missing := missing_rights(inspection.stream.connection, is_broker=inspection.is_broker):
        yield fail("redis_user", f"the user of REDIS_URL may not use {', '.join(missing)}", GRANT_USER)
    else:
        yield ok("redis_user", "it may do what workers, beat, Flower and commands do")


ROLE = Section(("database_role",), _role, needs=(POSTGRESQL, SCHEMA_CHECK), optional=True)
REDIS_USER = Section(("redis_user",), _user, needs=(REDIS, "replica"), optional=True)
