"""The Celery application: `celery -A worker.app worker|beat|flower`. Everything is put together here."""

from __future__ import annotations

import gc
import logging
import sys
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery, Task
from celery.signals import setup_logging, task_failure, worker_process_init, worker_process_shutdown

from worker.errors import SettingsError, UsageError
from worker.logs import configure_logs, get_logger
from worker.queues import QueueName
from worker.resources import Resources
from worker.settings import Settings, load_settings
from worker.timetable import DUTIES, beat_schedule

# Objects made, less those freed, before the garbage collector looks at the young ones.
COLLECT_AFTER = 100_000
# Seconds until a thread that has the interpreter lets another one have it, 5 ms by default.
SWITCH_AFTER = 0.0003

log = get_logger("tasks")


class UsageApp(Celery):  # type: ignore[misc]
    """Celery, knowing our settings."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("usage-worker", broker=broker_url(settings.redis_url), include=["worker.tasks"])
        self.settings = settings
        self.conf.update(configuration(settings))

    @cached_property
    def resources(self) -> Resources:
        """What this process holds open."""
        return Resources(self.settings)


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's configuration."""
    return {
        "broker_connection_retry_on_startup": True,
        "task_ignore_result": True,
        # Flower and `status` live on these events.
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        # A worker takes one small task at a time: what it holds back, another one could do.
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        # With REMAP_SIGTERM=SIGQUIT a stop waits for the batch in hand, but not for ever.
        "worker_soft_shutdown_timeout": settings.flush_budget + 10,
        "worker_enable_soft_shutdown_on_idle": False,
        # A plain worker takes from all. Where long tasks have a worker of their own, the counting never waits for them.
        "task_queues": {name: {"exchange": name, "routing_key": name} for name in QueueName},
        "task_default_queue": QueueName.COUNTING,
        "task_routes": {task: {"queue": QueueName.MAINTENANCE} for task in DUTIES.values()},
        "timezone": settings.timezone,
        "beat_schedule": beat_schedule(settings),
    }


def broker_url(redis_url: str) -> str:
    """The URL of the same Redis as Celery spells it; they differ for Unix sockets only."""
    url = urlsplit(redis_url)
    if url.scheme != "unix":
        return redis_url
    database = parse_qs(url.query).get("db", ["0"])[0]
    return f"redis+socket://{url.path}?virtual_host={database}"


@setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logs(**_: object) -> None:
    configure_logs(app.settings)
    # Celery announces every trigger three times a second and shard; what a flush did, ingest says itself.
    for chatty in ("celery.app.trace", "celery.worker.strategy", "celery.beat"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@task_failure.connect  # type: ignore[untyped-decorator]
def _tell_failure(sender: Task, exception: BaseException, **_: object) -> None:
    """Celery tells of the failures that a task expects on a level that the line above has silenced."""
    if isinstance(exception, UsageError):
        log.warning("a task failed", task=sender.name, reason=str(exception))


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _tune_the_interpreter(**_: object) -> None:
    """What is loaded now stays for ever, and a batch makes many objects and few cycles: by default the collector would
    look through all of them a hundred times a batch. And a transaction would wait 5 ms after each of its statements
    while the next batch is made ready.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    sys.setswitchinterval(SWITCH_AFTER)


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close_resources(**_: object) -> None:
    app.resources.close()


def _create_app() -> UsageApp:
    try:
        return UsageApp(load_settings())
    except SettingsError as error:
        # Celery's own commands would print a traceback for what is one wrong variable.
        raise SystemExit(f"usage-worker: {error}") from None


app = _create_app()
