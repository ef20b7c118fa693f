"""Results of the processes of Celery's pool: they are read whole, and a worker that cannot read them ends."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from celery.bootsteps import StartStopStep
from celery.concurrency.asynpool import AsynPool, ResultHandler
from celery.platforms import EX_FAILURE
from celery.signals import worker_init

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

# A process writes the rest of its result at once, unless it has been stopped or killed.
_REST_SECONDS = 1.0
# A batch in hand has its time to end.
END_SECONDS = 30.0


class WholeResults(ResultHandler):  # type: ignore[misc]
    """Waits for the rest of a result that it has begun to read, instead of going back to the event loop.

    When the broker is lost, Celery 5.6 makes its event loop anew, and forgets what it has read of a result; it takes
    the rest for the beginning of another one, and ends with an "Unrecoverable error" or reads for ever. That is the
    moment at which flushes fail, whose results have the stack and are large.
    """

    def _recv_message(self, add_reader: Any, fd: int, callback: Any, **options: Any) -> Iterator[None]:
        for _ in super()._recv_message(add_reader, fd, callback, **options):
            if not wait([fd], _REST_SECONDS):
                yield


class EndOfFailedWorker(StartStopStep):  # type: ignore[misc]
    """Ends a worker whose event loop has failed: it may wait for its pool for ever, alive, without taking a task."""

    requires = ("celery.worker.components:Pool",)

    def stop(self, parent: Any) -> None:
        """Limit how long the pool, which is stopped next, may take."""
        if parent.exitcode == EX_FAILURE:
            end = threading.Timer(END_SECONDS, os._exit, [EX_FAILURE])
            end.daemon = True
            end.start()


def read_whole_results(app: Celery) -> None:
    """Have the workers of the app read results whole, unless the application reads them in its own way."""

    def begin(sender: Any, **_: object) -> None:
        if sender.app is app and AsynPool.ResultHandler is ResultHandler:
            AsynPool.ResultHandler = WholeResults

    worker_init.connect(begin, weak=False)


def end_where_results_fail(app: Celery) -> None:
    """Have our own workers end where results cannot be read; an application's tasks may need more time to end."""
    app.steps["worker"].add(EndOfFailedWorker)
