"""The status of the system: figures, and a check for everything that keeps events from being counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from usage_worker.errors import ConcurrencyError, SchemaError, UsageError, first_line
from usage_worker.monitoring.check import Check, State, fail, joined, unknown
from usage_worker.monitoring.checks import SECTIONS
from usage_worker.monitoring.checks.postgresql import SCHEMA_CHECK
from usage_worker.monitoring.checks.upkeep import partitions_failed
from usage_worker.monitoring.inspection import Figures, Inspection
from usage_worker.monitoring.remedies import explained
from usage_worker.printable import printable
from usage_worker.service.schedule import schedule_entries
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usage_worker.monitoring.inspection import Section
    from usage_worker.settings import Settings

SETTINGS = "settings"
CHECKS = (SETTINGS, *(name for section in SECTIONS for name in section.checks))


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """The status at one moment: every check, in the order of `CHECKS`, and the figures."""

    checks: list[Check]
    figures: Figures

    @property
    def problems(self) -> list[Check]:
        """The checks that fail, then those that warn."""
        return sorted((check for check in self.checks if check.is_problem), key=lambda check: check.state)

    @property
    def healthy(self) -> bool:
        """Whether events are being counted: no check fails."""
        return all(check.state is not State.FAIL for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints: figures are None where they are unknown."""
        figures = self.figures
        return {
            "healthy": self.healthy,
            "problems": [check.as_dict() for check in self.problems],
            "checks": {check.name: check.state.value for check in self.checks},
            "backlog": _by_shard(figures.backlog),
            "flushes": _by_shard(figures.flushes),
            "vanished": figures.vanished,
            "foreign_shards": figures.foreign_shards,
            "redis_memory": figures.redis_memory,
            "workers": None if figures.processes is None else figures.workers,
            "nodes": None if figures.processes is None else [node._asdict() for node in figures.nodes],
            "beat_seconds": figures.beat_seconds,
            "accepted_per_second": figures.accepted_per_second,
            "server": figures.server and {"place": figures.server.place, "is_standby": figures.server.is_standby},
            "servers": figures.servers,
            "schema": figures.schema,
            "totals": figures.totals and figures.totals._asdict(),
            "quarantine": figures.quarantine and asdict(figures.quarantine),
            "partitions": figures.partitions and [asdict(it) | {"is_short": it.is_short} for it in figures.partitions],
            "partitions_failed": None if figures.last_runs is None else partitions_failed(figures.last_runs),
            "anomalies": figures.alerts,
            "clocks": figures.clocks,
        }


def checked_settings() -> Settings:
    """Read the settings, and the schedules in them.

    Raises:
        SettingsError: one is wrong.
    """
    settings = load_settings()
    schedule_entries(settings)
    return settings


def collect_status(settings: Settings) -> SystemStatus:
    """Ask Redis and PostgreSQL; what cannot be asked is a failing check, never an exception."""
    return examined(settings, SECTIONS)


def examined(settings: Settings, sections: Iterable[Section], *, keeps: bool = True) -> SystemStatus:
    """Ask these sections, as `collect_status` does all of its own; `keeps` as in `Inspection`."""
    checks = [Check(SETTINGS, State.OK)]
    with Inspection(settings, keeps=keeps) as inspection:
        for section in sections:
            checks += _examined(section, inspection, {check.name for check in checks if check.state is State.FAIL})
    return SystemStatus(checks, inspection.figures)


def wrong_settings(error: UsageError) -> SystemStatus:
    """Return the status of a process that cannot ask anything."""
    wrong = fail(SETTINGS, str(error), "correct the variable and run it again")
    return SystemStatus([wrong, *(Check(name, State.UNKNOWN) for name in CHECKS[1:])], Figures())


def _examined(section: Section, inspection: Inspection, failed: set[str]) -> list[Check]:
    """Return the checks of a section; `failed` are the checks of earlier ones that fail."""
    if missing := failed.intersection(section.needs):
        return [unknown(name, f"cannot be asked while {', '.join(sorted(missing))} fails") for name in section.checks]
    found: dict[str, Check] = {}
    otherwise, why = State.OK, ""
    try:
        for check in section.ask(inspection):
            found[check.name] = joined(found.get(check.name), check)
    except Exception as error:  # noqa: BLE001 - whatever is wrong here, the other sections must be shown
        otherwise, why = State.UNKNOWN, printable(inspection.settings.mask(first_line(error)))
        # A lock and the schema have checks of their own.
        has_own = isinstance(error, ConcurrencyError) or (isinstance(error, SchemaError) and SCHEMA_CHECK in failed)
        if not section.optional and not has_own:
            reason, remedy = explained(error)
            failure = fail(section.checks[0], printable(inspection.settings.mask(reason)), remedy)
            found[failure.name] = joined(found.get(failure.name), failure)
    return [found.get(name, Check(name, otherwise, why)) for name in section.checks]


def _by_shard(values: dict[int, Any] | None) -> dict[str, Any] | None:
    return None if values is None else {str(shard): value._asdict() for shard, value in values.items()}
