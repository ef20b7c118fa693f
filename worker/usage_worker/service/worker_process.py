"""What our own Celery worker processes set up: logs and the interpreter. An application's own app keeps its own."""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from billiard import pool
from celery.apps import worker
from celery.signals import (
    beat_init,
    celeryd_after_setup,
    import_modules,
    setup_logging,
    task_failure,
    task_postrun,
    task_prerun,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
)

from usage_worker.errors import UsageError
from usage_worker.logs import bind_to_lines, configure_logs, get_logger, unbind_from_lines
from usage_worker.service.broker_server import leave_unusable_broker
from usage_worker.service.flower import configure_flower
from usage_worker.service.queues import QueueName
from usage_worker.service.server_check import leave_other_namespace, leave_unusable_server
from usage_worker.service.task_names import FLUSH
from usage_worker.trace_export import begin_export, check_export, end_export

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Task

    from usage_worker.settings import Settings

# Number of allocations beyond deallocations that starts a collection of the youngest generation.
COLLECT_AFTER = 100_000
# Seconds after which a thread yields the interpreter, by default 5 ms.
SWITCH_SECONDS = 0.0003
# How often a process that ends looks, each 0.1 s, whether the worker has read its results.
READER_CHECKS = 20
# Celery logs every tick three times, and each one that expires in an outage; ingest logs each flush itself. At level
# debug, the pool logs the arguments of every task.
QUIET = ("celery.app.trace", "celery.worker.strategy", "celery.worker.request", "celery.beat", "celery.pool")
# The commands of Celery that run as services; the others print results.
SERVICES = {"worker", "beat", "flower"}

log = get_logger("tasks")


def configure_worker_processes(settings: Settings) -> None:
    """Connect Celery's signals; called once, by the process that makes our own app."""

    def configure(**_: object) -> None:
        configure_logs(settings, service=_service(sys.argv) is not None)
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("py.warnings").addFilter(_is_no_announcement)
        logging.getLogger("celery.worker.consumer.consumer").addFilter(_without_bodies)
        logging.getLogger("celery.beat").addFilter(_without_stack)
        # Four warnings at each start at which Flower is faster than the workers; its page shows who does not answer.
        logging.getLogger("flower.inspector").setLevel(logging.ERROR)

    service = _service(sys.argv)
    if service:
        configure()  # before Celery warns of root, and beat says that it is starting
    if service == "flower":
        configure_flower()
    setup_logging.connect(configure, weak=False)
    # Flower does not send setup_logging, only this signal.
    import_modules.connect(configure, weak=False)
    if service == "worker" and settings.log_level not in {"debug", "info"}:
        _print_no_signals()
    _check_servers(settings)
    task_prerun.connect(_bind_task)
    task_postrun.connect(_unbind_task)
    task_failure.connect(_log_failure)
    worker_shutdown.connect(_log_end)
    _export_traces()
    celeryd_after_setup.connect(_hold_nothing_back)
    worker_process_init.connect(_tune_the_interpreter)
    worker_process_init.connect(_end_without_a_reader)


def _print_no_signals() -> None:
    """Keep Celery from printing, past the logs and whatever their level, which signal it has received."""
    worker.safe_say = lambda *_: None


def _check_servers(settings: Settings) -> None:
    def check(**_: object) -> None:
        leave_unusable_server(settings.redis_url, settings.redis_master)
        leave_unusable_broker(settings)

    # Both come after the set-up of the logs, and before the first connection to the broker.
    celeryd_after_setup.connect(check, weak=False)
    celeryd_after_setup.connect(lambda **_: leave_other_namespace(settings), weak=False)
    beat_init.connect(check, weak=False)


def _hold_nothing_back(instance: Any, conf: Any, **_: object) -> None:
    """Let a worker for maintenance alone take a task only when it can begin it.

    Held back behind one that takes longer than the visibility timeout of Redis, it would be delivered a second time.
    Counting is faster with a message in hand, and waits for no long task.
    """
    is_delivered_again = "visibility_timeout" in conf.broker_transport_options
    if is_delivered_again and set(instance.app.amqp.queues.consume_from) == {QueueName.MAINTENANCE}:
        conf.worker_disable_prefetch = True


def _export_traces() -> None:
    celeryd_after_setup.connect(lambda **_: check_export(), weak=False)
    # In the processes of the pool, whose end runs nothing that `atexit` knows.
    worker_process_init.connect(lambda **_: begin_export(), weak=False)
    worker_process_shutdown.connect(lambda **_: end_export(), weak=False)


def _service(arguments: list[str]) -> str | None:
    """Return which of the commands `celery worker`, `beat` and `flower`, or ours of the same name, this is."""
    program = Path(arguments[0])
    if {"celery", "service"}.isdisjoint((program.name, program.parent.name)):
        return None
    command = next((it for it in arguments[1:] if it in SERVICES | {"inspect", "control"}), None)
    return command if command in SERVICES else None


def _bind_task(sender: Task, task_id: str, args: Sequence[object], **_: object) -> None:
    shard = {"shard": args[0]} if sender.name == FLUSH and args else {}
    bind_to_lines(task=sender.name, task_id=task_id, **shard)


def _unbind_task(**_: object) -> None:
    unbind_from_lines()


def _log_end(**_: object) -> None:
    """Log the end: what Celery says about it is printed from a signal handler, where nothing can be logged."""
    log.info("the worker has stopped")
    gc.freeze()  # or the interpreter would traverse all objects at its exit, 0.1 s of computing


def _is_no_announcement(record: logging.LogRecord) -> bool:
    """Drop Celery's announcement of a future default, 900 characters at each loss of Redis.

    Celery shows such warnings whatever the filters of `warnings` say: it sets them after `setup_logging`.
    """
    return "CPendingDeprecationWarning" not in record.getMessage()


def _without_stack(record: logging.LogRecord) -> bool:
    """Remove the stack of beat itself, which it adds to each error while it cannot send: 5 kB, 200 times in 20 s."""
    if isinstance(record.msg, str) and record.msg.startswith("Message Error: %s\n") and isinstance(record.args, tuple):
        record.msg, record.args = "Message Error: %s", record.args[:1]
    return True


def _without_bodies(record: logging.LogRecord) -> bool:
    """Keep the reason of an unreadable message alone: its body may contain personal data."""
    if "body" in str(record.msg):
        record.msg, record.args = record.getMessage().partition("\n")[0].partition(" [type:")[0], ()
        record.exc_info = None
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


def _end_without_a_reader(**_: object) -> None:
    """Let a process of the pool end soon although nobody reads its last result.

    A worker that shuts down forgets the tasks that a process has been given and has not begun, and reads no result of
    them (`AsynPool.flush` of Celery 5.6). The process completes them all the same and would wait 30 s for its reader,
    as long as orchestrators wait before they kill. The broker delivers these tasks again in any case.
    """
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = READER_CHECKS
