"""What our own Celery worker processes set up: logs and the interpreter. An application's own app keeps its own."""

from __future__ import annotations

import gc
import logging
import sys
from typing import TYPE_CHECKING

from celery.signals import import_modules, setup_logging, task_failure, worker_process_init

from usage_worker.errors import UsageError
from usage_worker.logs import configure_logs, get_logger

if TYPE_CHECKING:
    from celery import Task

    from usage_worker.settings import Settings

# Objects made, less those freed, before the garbage collector looks at the young ones.
COLLECT_AFTER = 100_000
# Seconds until a thread that has the interpreter lets another one have it, 5 ms by default.
SWITCH_SECONDS = 0.0003

log = get_logger("tasks")


def configure_worker_processes(settings: Settings) -> None:
    """Connect Celery's signals; called once, by the process that makes our own app."""

    def configure(**_: object) -> None:
        configure_logs(settings)
        # Celery announces every trigger three times a second and shard; ingest logs what a flush did itself. Its pool
        # shows the arguments of every task, where debugging is on.
        for chatty in ("celery.app.trace", "celery.worker.strategy", "celery.beat", "celery.pool"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.getLogger("celery.worker.consumer.consumer").addFilter(_without_bodies)

    setup_logging.connect(configure, weak=False)
    # Flower never asks for logs to be set up, and sends no other signal.
    import_modules.connect(configure, weak=False)
    task_failure.connect(_log_failure)
    worker_process_init.connect(_tune_the_interpreter)


def _without_bodies(record: logging.LogRecord) -> bool:
    """Cut a message that Celery cannot read out of the log: it may hold people's data; the line that says why stays."""
    if "body" in str(record.msg):
        record.msg, record.args = record.getMessage().partition("\n")[0].partition(" [type:")[0], ()
    return True


def _log_failure(sender: Task, exception: BaseException, **_: object) -> None:
    """Log the failures that a task expects; Celery logs them on a level that is silenced above."""
    if isinstance(exception, UsageError):
        log.warning("a task failed", task=sender.name, reason=str(exception))


def _tune_the_interpreter(**_: object) -> None:
    """Keep the garbage collector and the thread switch interval from slowing batches down.

    What is loaded now stays for ever, and a batch makes many objects and few cycles: by default the collector would
    look through all of them a hundred times a batch. And a transaction would wait 5 ms after each of its statements
    while the next batch is prepared.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    sys.setswitchinterval(SWITCH_SECONDS)
