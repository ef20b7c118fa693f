"""How a periodic task is done: by one process at a time, and with a note of what it did."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from usage_worker.errors import BusyError
from usage_worker.logs import get_logger
from usage_worker.store import record_run

if TYPE_CHECKING:
    from usage_worker.store import Store

log = get_logger("maintenance")

# Told now and then how much is done, and of how much where that is known.
OnProgress = Callable[[int, int | None], None]


class TaskReport(Protocol):
    """What a task did."""

    def as_dict(self) -> dict[str, Any]: ...


def run_task(
    store: Store, task: str, work: Callable[[], TaskReport], partial_report: TaskReport | None = None
) -> dict[str, Any]:
    """Do a periodic task and note what it did; the figures are what Flower shows.

    Two beats, or a command beside beat, send it twice: who finds another process at work leaves it to that one. What
    it had done before that, `begun` says: the report that the work fills in as it goes.
    """
    started = time.monotonic()
    try:
        figures = work().as_dict()
    except BusyError:
        if partial_report is None or partial_report == type(partial_report)():
            return {"busy": True}
        figures = partial_report.as_dict() | {"busy": True}
    seconds = round(time.monotonic() - started, 3)
    record_run(store, task, seconds, figures)
    log.info(task, **figures, seconds=seconds)
    return figures | {"seconds": seconds}
