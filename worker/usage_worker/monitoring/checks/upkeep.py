"""Upkeep: the partitions of the coming days, and periodic tasks that do not end any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from usage_worker.maintenance import MANAGE_PARTITIONS, PERIODIC_TASKS, partition_coverage
from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.service.schedule import next_of, schedule_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.maintenance import PeriodicTask
    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Figures, Inspection
    from usage_worker.service.schedule import ScheduleEntry
    from usage_worker.settings import Settings
    from usage_worker.store import TaskRun

# How late the end of a run may be.
GRACE = timedelta(seconds=60)
MAKE = "run `usage-worker run partitions`"


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
    runs = inspection.last_runs
    tasks = {task.name: task for task in PERIODIC_TASKS}
    entries = [entry for entry in schedule_entries(settings) if entry.task in tasks and entry.when is not None]
    now = datetime.now(ZoneInfo(settings.timezone))
    for entry in entries:
        run = runs.get(entry.task)
        since = run.finished_at if run else _beat_began(figures)
        if since is None:
            continue
        since = since.astimezone(now.tzinfo)
        ahead = [tasks[other.task] for other in entries if other is not entry and _due_after(other, since) <= now]
        if missed_two(entry, since, now, sum((_longest(task, settings, runs) for task in ahead), GRACE)):
            last = f"ended last at {run.finished_at:%Y-%m-%d %H:%M:%S} UTC" if run else "has never ended"
            reason = f"{entry.task} {last}, and two runs are missed ({entry.description})"
            command = tasks[entry.task].command
            remedy = f"see the log of the worker for maintenance, and run `usage-worker run {command}`"
            yield fail("periodic_tasks", reason, remedy)


def missed_two(entry: ScheduleEntry, since: datetime, now: datetime, grace: timedelta = GRACE) -> bool:
    """Return whether two runs have been due after `since`, and the second has had time to end."""
    second = _due_after(entry, _due_after(entry, since))
    return now.astimezone(UTC) > second.astimezone(UTC) + grace


def _due_after(entry: ScheduleEntry, time: datetime) -> datetime:
    if isinstance(entry.when, str):
        return next_of(entry.when, time)
    return time + timedelta(seconds=entry.when or 0)


def _longest(task: PeriodicTask, settings: Settings, runs: dict[str, TaskRun]) -> timedelta:
    """Return how long others may wait behind a run of the task: one process may execute all of them in turn."""
    budget = getattr(settings, task.budget) if task.budget else 0.0
    return timedelta(seconds=max(budget, runs[task.name].seconds if task.name in runs else 0.0))


def _beat_began(figures: Figures) -> datetime | None:
    """Return when the beat that has run for the longest time began, None where none is alive."""
    uptimes = [record.process.uptime for record in figures.alive if record.process.kind == "beat"]
    return datetime.now(UTC) - timedelta(seconds=max(uptimes)) if uptimes else None


PARTITIONS = Section(("partitions",), _partitions, needs=(POSTGRESQL,))
PERIODIC = Section(("periodic_tasks",), _periodic, needs=(POSTGRESQL,))
