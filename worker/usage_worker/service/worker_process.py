"""What our own Celery worker processes set up: logs and the interpreter. An application's own app keeps its own."""

from __future__ import annotations

import gc
import logging
import sys
from typing import TYPE_CHECKING

from celery.signals import (
    beat_init,
    celeryd_after_setup,
    import_modules,
    setup_logging,
    task_failure,
    worker_process_init,
)

from usage_worker.errors import UsageError
from usage_worker.logs import configure_logs, get_logger
from usage_worker.service.server_check import leave_unusable_server

if TYPE_CHECKING:
    from celery import Task

    from usage_worker.settings import Settings

# Number of allocations beyond deallocations that starts a collection of the youngest generation.
COLLECT_AFTER = 100_000
# Seconds after which a thread yields the interpreter, by default 5 ms.
SWITCH_SECONDS = 0.0003

log = get_logger("tasks")


def configure_worker_processes(settings: Settings) -> None:
    """Connect Celery's signals; called once, by the process that makes our own app."""

    def configure(**_: object) -> None:
        configure_logs(settings)
        # Celery logs every tick three times; ingest logs each flush itself. At level debug, the pool logs the arguments
        # of every task.
        for name in ("celery.app.trace", "celery.worker.strategy", "celery.beat", "celery.pool"):
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("celery.worker.consumer.consumer").addFilter(_without_bodies)

    setup_logging.connect(configure, weak=False)
    # Flower does not send setup_logging, only this signal.
    import_modules.connect(configure, weak=False)

    def check(**_: object) -> None:
        leave_unusable_server(settings.redis_url)

    # Both come after the set-up of the logs, and before the first connection to the broker.
    celeryd_after_setup.connect(check, weak=False)
    beat_init.connect(check, weak=False)
    task_failure.connect(_log_failure)
    worker_process_init.connect(_tune_the_interpreter)


def _without_bodies(record: logging.LogRecord) -> bool:
    """Remove the body of an unreadable message from the log, since it may contain personal data; keep the reason."""
    if "body" in str(record.msg):
        record.msg, record.args = record.getMessage().partition("\n")[0].partition(" [type:")[0], ()
    return True


def _log_failure(sender: Task, exception: BaseException, **_: object) -> None:
    """Log expected failures; Celery logs them at a level that is silenced above."""
    if isinstance(exception, UsageError):
        log.warning("a task failed", task=sender.name, reason=str(exception))


def _tune_the_interpreter(**_: object) -> None:
    """Keep the garbage collector and the thread switch interval from slowing batches down.

    What is loaded now is never freed, and a batch makes many objects and few cycles: by default the collector would
    traverse all of them a hundred times per batch. And a transaction would wait 5 ms after each of its statements
    while the next batch is prepared.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    sys.setswitchinterval(SWITCH_SECONDS)
