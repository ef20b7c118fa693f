"""What a pool's processes must know of their worker: how many they are, and whether it is shutting down."""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING, Any

from celery.concurrency import get_implementation, prefork
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down

from usage_worker.ingest import Turn
from usage_worker.maintenance.registry import PERIODIC_TASKS

if TYPE_CHECKING:
    from celery import Celery

    from usage_worker.settings import Settings

# Seconds for which a flush waits for events where each shard has a process, and the other tasks have one.
WAIT_SECONDS = 2.0


class WorkerPool:
    """The pool of the worker that this process belongs to; without a worker, one process."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._hostname = ""
        self._processes = 1
        # Celery tells only the main process that it is shutting down. Its children inherit this byte, and unlike a lock
        # it can neither be held by one that was killed nor block the signal handler that writes it.
        self._stopping = mmap(-1, 1)
        self._finalizer: Any = None
        worker_init.connect(self._begin, weak=False)
        worker_ready.connect(self._note_finalizer, weak=False)
        worker_shutdown.connect(self._drop_finalizer, weak=False)
        worker_shutting_down.connect(self._stop, weak=False)

    @property
    def is_stopping(self) -> bool:
        """Whether the worker is shutting down."""
        return self._stopping[0] != 0

    def turn(self, settings: Settings) -> Turn:
        """Return the turn of a flush. With fewer processes it is shorter, since other flushes and tasks wait for it."""
        share = min(1.0, self._processes / (settings.stream_shards + 1))
        budget = max(settings.flush_budget * share, min(settings.flush_budget, WAIT_SECONDS))
        return Turn(budget, WAIT_SECONDS * share, lambda: self.is_stopping)

    def _begin(self, sender: Any, **_: object) -> None:
        if sender.app is self._app:
            resources = self._app.usage_resources
            self._hostname = resources.node = sender.hostname
            # The pool `solo` executes one task at a time, whatever the option says.
            self._processes = 1 if "solo" in str(sender.pool_cls) else sender.concurrency
            if not issubclass(get_implementation(sender.pool_cls), prefork.TaskPool):
                # Other pools execute all tasks in this process: flushes, and the periodic tasks beside them.
                resources.connections = min(self._processes, resources.settings.stream_shards + len(PERIODIC_TASKS))
            # Not the one of a worker that ran in this process before.
            self._stopping = mmap(-1, 1)

    def _stop(self, sender: str, **_: object) -> None:
        if sender == self._hostname:
            self._stopping[0] = 1

    def _note_finalizer(self, sender: Any, **_: object) -> None:
        if sender.app is self._app:
            self._finalizer = getattr(getattr(sender.pool, "_pool", None), "_terminate", None)

    def _drop_finalizer(self, sender: Any, **_: object) -> None:
        """Spare the exit of a worker half a second: billiard would end its processes again, which have ended."""
        if sender.app is self._app and self._finalizer is not None:
            self._finalizer.cancel()
