"""The doctor: the checks of the status, and those of what makes a failure likely or a system slow.

Nothing is changed anywhere. What a server does not tell this role or user is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from usage_worker.errors import SettingsError
from usage_worker.monitoring.check import Check, State, unknown
from usage_worker.monitoring.checks import SECTIONS
from usage_worker.monitoring.doctor.capacity import CONNECTIONS, POSTGRESQL_DISK, REDIS_DISK
from usage_worker.monitoring.doctor.clients import REDIS_USER, ROLE
from usage_worker.monitoring.doctor.found import found
from usage_worker.monitoring.doctor.persistence import PERSISTENCE
from usage_worker.monitoring.doctor.replication import REPLICATION
from usage_worker.monitoring.doctor.settings import CONTRADICTIONS, EMBEDDER, VARIABLES
from usage_worker.monitoring.doctor.tables import DEFINITIONS, INDEXES, TABLES
from usage_worker.monitoring.doctor.vacuum import AUTOVACUUM, OLD_SNAPSHOTS, PREPARED, SLOTS
from usage_worker.monitoring.doctor.versions import PACKAGES, POSTGRESQL_VERSION, REDIS_VERSION, WORKER_VERSIONS
from usage_worker.monitoring.status import SETTINGS, checked_settings, examined, wrong_settings
from usage_worker.settings import Settings

# These need no right settings.
_OF_THIS_PROCESS = (VARIABLES, PACKAGES)
_OF_SERVERS = (
    *SECTIONS,
    CONTRADICTIONS,
    EMBEDDER,
    REDIS_VERSION,
    REDIS_USER,
    PERSISTENCE,
    WORKER_VERSIONS,
    POSTGRESQL_VERSION,
    ROLE,
    DEFINITIONS,
    TABLES,
    INDEXES,
    AUTOVACUUM,
    OLD_SNAPSHOTS,
    SLOTS,
    PREPARED,
    REPLICATION,
    CONNECTIONS,
    POSTGRESQL_DISK,
    REDIS_DISK,
)
DOCTOR_CHECKS = (SETTINGS, *chain.from_iterable(section.checks for section in (*_OF_THIS_PROCESS, *_OF_SERVERS)))


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Every check, in the order of `DOCTOR_CHECKS`; `reason` of one that passes is what was found."""

    checks: list[Check]

    @property
    def failed(self) -> bool:
        """Whether a check fails."""
        return any(check.state is State.FAIL for check in self.checks)

    @property
    def counts(self) -> dict[str, int]:
        """The number of checks in each state."""
        return {state.value: sum(check.state is state for check in self.checks) for state in State}

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {"failed": self.failed, "counts": self.counts, "checks": [check.as_dict() for check in self.checks]}


def diagnose() -> Diagnosis:
    """Read the settings and ask everything; what is wrong or cannot be asked is a check, never an exception."""
    try:
        settings = checked_settings()
    except SettingsError as error:
        wrong = wrong_settings(error).checks[0]
        ours = examined(Settings(), _OF_THIS_PROCESS).checks[1:]
        others = [unknown(name, "needs right settings") for section in _OF_SERVERS for name in section.checks]
        return Diagnosis([wrong, *ours, *others])
    status = examined(settings, (*_OF_THIS_PROCESS, *_OF_SERVERS), keeps=False)
    figures = found(status.figures)
    return Diagnosis([_with_figure(check, figures.get(check.name, "")) for check in status.checks])


def _with_figure(check: Check, figure: str) -> Check:
    """Return a check of the status, which says nothing where it passes, with what was found."""
    return replace(check, reason=figure) if check.state is State.OK and not check.reason else check
