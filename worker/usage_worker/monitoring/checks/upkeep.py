"""Upkeep: the partitions of the coming days, and periodic tasks that do not end any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from usage_worker.maintenance.partitions import MANAGE_PARTITIONS, partition_coverage
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.service.schedule import later, next_of, schedule_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Figures, Inspection
    from usage_worker.service.schedule import ScheduleEntry
    from usage_worker.store.task_runs import TaskRun

# How late the end of a run may be.
GRACE = timedelta(seconds=60)
MAKE = "run `usage-worker run partitions`"
_TASKS = {task.name: task for task in PERIODIC_TASKS}


def _partitions(inspection: Inspection) -> Iterator[Check]:
    figures = inspection.figures
    figures.partitions = partition_coverage(inspection.store, inspection.settings)
    failed = partitions_failed(inspection.last_runs)
    for table in figures.partitions:
        if table.is_short:
            ahead = f"{table.ahead_days} days ahead" if table.ahead_days >= 0 else "none for today, 0 days ahead"
            yield fail("partitions", f"{table.table} has partitions for {ahead} of {table.wanted_days}", MAKE)
    for name, reason in failed.items():
        yield fail("partitions", f"the last run left {name}: {reason}", f"remove the obstacle, then {MAKE}")


def partitions_failed(runs: dict[str, TaskRun]) -> dict[str, str]:
    """Return the partitions that the last run could not create or drop, with the reason."""
    run = runs.get(MANAGE_PARTITIONS)
    failed: dict[str, str] = run.report.get("failed", {}) if run else {}
    return failed


def _periodic(inspection: Inspection) -> Iterator[Check]:
    figures, settings = inspection.figures, inspection.settings
    entries = [entry for entry in schedule_entries(settings) if entry.task in _TASKS and entry.when is not None]
    now = datetime.now(ZoneInfo(settings.timezone))
    for entry in entries:
        run = inspection.last_runs.get(entry.task)
        since = run.finished_at if run else _beat_began(figures)
        if since is None:
            continue
        since = since.astimezone(now.tzinfo)
        delays = (_delay(other, inspection, since, now) for other in entries if other is not entry)
        if missed_two(entry, since, now, sum(delays, GRACE)):
            last = f"ended last at {run.finished_at:%Y-%m-%d %H:%M:%S} UTC" if run else "has never ended"
            reason = f"{entry.task} {last}, and two runs are missed ({entry.description})"
            command = _TASKS[entry.task].command
            remedy = f"see the log of the worker for maintenance, and run `usage-worker run {command}`"
            yield fail("periodic_tasks", reason, remedy)


def _delay(other: ScheduleEntry, inspection: Inspection, since: datetime, now: datetime) -> timedelta:
    """Return for how long a task may have waited for another one since then: one process may execute both in turn."""
    run, budget = inspection.last_runs.get(other.task), _TASKS[other.task].budget
    if run and run.finished_at > since:
        return timedelta(seconds=run.seconds)
    if _due_after(other, run.finished_at.astimezone(now.tzinfo) if run else since).astimezone(UTC) > now:
        return timedelta()
    if budget:
        return timedelta(seconds=getattr(inspection.settings, budget))
    return timedelta(seconds=run.seconds if run else 0)


def missed_two(entry: ScheduleEntry, since: datetime, now: datetime, grace: timedelta = GRACE) -> bool:
    """Return whether two runs have been due after `since`, and the second has had time to end."""
    second = _due_after(entry, _due_after(entry, since))
    return now.astimezone(UTC) > second.astimezone(UTC) + grace


def _due_after(entry: ScheduleEntry, time: datetime) -> datetime:
    if isinstance(entry.when, str):
        return next_of(entry.when, time)
    return later(time, timedelta(seconds=entry.when or 0))


def _beat_began(figures: Figures) -> datetime | None:
    """Return when the beat that has run for the longest time began, None where none is alive."""
    uptimes = [record.process.uptime for record in figures.alive if record.process.kind == "beat"]
    return datetime.now(UTC) - timedelta(seconds=max(uptimes)) if uptimes else None


PARTITIONS = Section(("partitions",), _partitions, needs=(POSTGRESQL,))
PERIODIC = Section(("periodic_tasks",), _periodic, needs=(POSTGRESQL,))
