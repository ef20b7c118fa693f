"""What our tasks do not take over from an application's defaults for its own tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.signals import worker_init

if TYPE_CHECKING:
    from celery import Celery

OPTIONS: dict[str, Any] = {
    "bind": True,
    "shared": False,
    # Nobody reads results: those of two idle shards would be 95,000 a day. A backend that is away would end a task
    # before it begins, where that is noted.
    "ignore_result": True,
    "store_errors_even_if_ignored": False,
    "track_started": False,
    "rate_limit": 0,
}


def lengthen_time_limits(app: Celery) -> None:
    """Have the time limits of the app's workers end none of our tasks before its `least_time_limit`.

    Where a worker has no limit, our tasks have none: its event loop keeps the timer of each task until the limit is
    over, although the task has ended, so that many short tasks need a short one.
    """

    def lengthen(sender: Any, **_: object) -> None:
        if sender.app is app:
            for task in app.tasks.values():
                _lengthen(task, sender)

    worker_init.connect(lengthen, weak=False)


def _lengthen(task: Any, worker: Any) -> None:
    least = getattr(task, "least_time_limit", None)
    names = ("time_limit", "soft_time_limit")
    limits = {name: limit for name in names if (limit := getattr(task, name) or getattr(worker, name))}
    if least and limits:
        # Both by as much, so that the soft one comes before the hard one.
        more = max(0, least - min(limits.values()))
        for name, limit in limits.items():
            setattr(task, name, limit + more)
