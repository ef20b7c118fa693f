"""How a periodic task is executed: by one process at a time, with a record of its last run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from usage_worker.errors import BusyError
from usage_worker.logs import get_logger
from usage_worker.store.task_runs import record_run, require_owner

if TYPE_CHECKING:
    from usage_worker.store.connection import Store

log = get_logger("maintenance")

# The part of a report that has ids of people.
_OF_PEOPLE = "differences"

# Called now and then with what is done and, where it is known, the total.
OnProgress = Callable[[int, int | None], None]


class TaskReport(Protocol):
    """What a task did."""

    def as_dict(self) -> dict[str, Any]: ...


def run_task(
    store: Store, task: str, work: Callable[[], TaskReport], partial_report: TaskReport | None = None
) -> dict[str, Any]:
    """Execute a periodic task and record its run.

    Two beats, or a command beside beat, start a task twice; the one that finds another process at work stops.

    Args:
        store: where the run is recorded, in `usage_task_runs`.
        task: the name of the task.
        work: the task itself.
        partial_report: the report that `work` fills in as it goes. A run that stops for another process is recorded if
            this report no longer equals a new one, and not otherwise.

    Returns:
        The figures of the report that `shown_figures` leaves and `seconds`; with `busy` if another process was at work.

    Raises:
        RoleError: our role does not own the tables.
    """
    require_owner(store)
    started = time.monotonic()
    try:
        figures = work().as_dict()
    except BusyError:
        if partial_report is None or partial_report == type(partial_report)():
            return {"busy": True}
        figures = partial_report.as_dict() | {"busy": True}
    seconds = round(time.monotonic() - started, 3)
    record_run(store, task, seconds, figures)
    shown = shown_figures(figures) | {"seconds": seconds}
    log.info(task, **shown)
    return shown


def shown_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures for logs and Flower: without the ids of people, which only the record of the run has."""
    return {name: value for name, value in figures.items() if name != _OF_PEOPLE}
