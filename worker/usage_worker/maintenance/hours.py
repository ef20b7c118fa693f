"""The task `analytics.hours`: roll up the hours again that events have touched since the last run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.hours import marked_days, roll_up_marked_hours

if TYPE_CHECKING:
    from usage_worker.maintenance.task_run import OnProgress
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

HOURS = "analytics.hours"


@dataclass(slots=True)
class HoursReport:
    """What a run did; filled as it goes on, so that it can be read after an interruption."""

    days: int = 0
    """Number of UTC days that had marks."""
    hours: int = 0
    """Number of hours that were rolled up."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def roll_up_hours(
    store: Store,
    on_progress: OnProgress = lambda _done, _total: None,
    report: HoursReport | None = None,
) -> HoursReport:
    """Roll up the marked hours of `agent_usage_hourly` again, a transaction for each day.

    An interruption loses at most the work on one day, whose marks then stay.

    Raises:
        BusyError: another process is at work.
    """
    report = report or HoursReport()
    days = marked_days(store)
    for done, day in enumerate(days):
        on_progress(done, len(days))
        report.hours += retry(partial(roll_up_marked_hours, store, HOURS, day))
        report.days += 1
    return report


def run_hours(store: Store, _settings: Settings) -> dict[str, Any]:
    """Roll up the hours again that events have touched since the last run."""
    report = HoursReport()
    return run_task(store, HOURS, lambda: roll_up_hours(store, report=report), report)
