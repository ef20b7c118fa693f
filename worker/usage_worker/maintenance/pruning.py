"""The task `maintenance.prune_dead_letters`: delete dead letters that are older than their retention, and unused ids.

The intake totals keep their events as quarantined, so that nothing is missing from them. An application's own id stays
while there is what it names, or a dead letter that may be replayed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.deadline import Deadline
from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.dead_letters import prune_dead_letters
from usage_worker.store.external_ids import delete_ownerless_ids

if TYPE_CHECKING:
    from datetime import timedelta

    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

PRUNE = "maintenance.prune_dead_letters"
PAGE_ROWS = 2_000
BUDGET_SECONDS = 60.0


@dataclass(slots=True)
class PruneReport:
    """What a run did; filled as it goes on, so that it can be read after an interruption."""

    deleted: int = 0
    deleted_ids: int = 0
    """Number of the application's own ids that were deleted: nothing of that name, and no dead letter, is left."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def prune(store: Store, older_than: timedelta, report: PruneReport | None = None) -> PruneReport:
    """Delete dead letters older than `older_than`, replayed or not, page by page; the next run deletes the rest.

    Then delete the application's own ids that nothing needs any more.

    Raises:
        BusyError: another process is at work.
        StoreUnavailableError: the rest is left to the next run.
    """
    report = report or PruneReport()
    deadline, reached = Deadline(BUDGET_SECONDS), 0
    while not deadline.is_over:
        page = retry(partial(prune_dead_letters, store, PRUNE, older_than, reached, PAGE_ROWS))
        report.deleted += page.deleted
        if page.reached is None:
            break
        reached = page.reached
    report.deleted_ids = retry(partial(delete_ownerless_ids, store, PRUNE))
    return report


def run_prune(store: Store, settings: Settings) -> dict[str, Any]:
    """Delete dead letters older than `USAGE_DEAD_LETTER_DAYS`, and ids of an application's own that nothing needs."""
    report = PruneReport()
    return run_task(store, PRUNE, partial(prune, store, settings.dead_letter_age, report), partial_report=report)
