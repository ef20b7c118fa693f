"""Whether a failover to a standby of PostgreSQL loses commits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.monitoring.check import ok, warn
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.store.queries import query
from usage_worker.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

# Of `synchronous_commit`: a commit waits for no standby.
NOT_AWAITED = {"off", "local"}


def _replication(inspection: Inspection) -> Iterator[Check]:
    (found,) = inspection.store.rows(query("replication"))
    level, names = found["level"], found["names"]
    if not (found["standbys"] or names):
        yield ok("replication", f"no standby; synchronous_commit {level}")
    elif level in NOT_AWAITED:
        reason = f"synchronous_commit is {level} for this role or database: a failover loses commits"
        yield warn("replication", reason, "ALTER ROLE or DATABASE … RESET synchronous_commit")
    elif not names and len(inspection.figures.servers or ()) > 1:
        reason = "no standby is synchronous: one that is promoted may lack the last commits, of which Redis has nothing"
        yield warn("replication", reason, "set synchronous_standby_names: docs/postgresql-failover.md")
    else:
        of_names = f"synchronous_standby_names {names}" if names else "none is synchronous"
        standbys = counted(found["standbys"], "standby")
        yield ok("replication", f"{standbys}, {of_names}; synchronous_commit {level}")


REPLICATION = Section(("replication",), _replication, needs=(POSTGRESQL,), optional=True)
