"""Our Celery app, and our tasks inside an application's own Celery app."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown, worker_ready
from kombu.entity import Exchange, Queue

from usage_worker.embedders import embedder_of
from usage_worker.errors import EmbedderError, ExtraMissingError, SettingsError
from usage_worker.logs import configure_from_environment, report_failure
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.service.broker import OwnAMQP, broker_of
from usage_worker.service.pool_results import end_where_results_fail, read_whole_results
from usage_worker.service.process_record import record_processes
from usage_worker.service.queues import QueueName
from usage_worker.service.resources import Resources
from usage_worker.service.schedule import beat_schedule
from usage_worker.service.server_check import log_concerns
from usage_worker.service.task_options import lengthen_time_limits
from usage_worker.service.tasks import begin_flushes, register
from usage_worker.service.worker_pool import WorkerPool
from usage_worker.service.worker_process import configure_worker_processes
from usage_worker.settings import Settings, load_settings


def create_app() -> Celery:
    """Make the app of `celery -A usage_worker` from the environment, and set up the processes that run it.

    Raises:
        SystemExit: a setting is wrong; Celery's own commands would print a traceback for it.
    """
    try:
        settings = load_settings()
        app = make_app(settings)
    except SettingsError as error:
        configure_from_environment()
        report_failure(str(error))
        raise SystemExit(1) from None
    configure_worker_processes(settings)
    end_where_results_fail(app)
    return app


def make_app(settings: Settings) -> Celery:
    """Make our own Celery app.

    Raises:
        SettingsError: a setting is wrong.
    """
    app = Celery("usage-worker", amqp=OwnAMQP)
    app.conf.update(configuration(settings))
    install(app, settings)
    return app


def install(app: Celery, settings: Settings | None = None, *, maintenance_queue: str | None = None) -> None:
    """Add our tasks to an application's own Celery app; `beat_schedule` gives the entries for its beat.

    Args:
        app: the Celery app; its broker, logging and other tasks stay as they are.
        settings: our settings; by default they are read from the environment.
        maintenance_queue: the queue of the periodic tasks, which may take minutes, so that a worker of their own can
            take them; by default they go to the app's default queue like our other tasks.

    Raises:
        SettingsError: a setting is wrong.
    """
    resources = Resources(settings or load_settings())
    # A wrong setting ends the start here. An embedder that fails does not: its task and `usage-worker status` report
    # it, and counting needs none.
    with suppress(EmbedderError, ExtraMissingError):
        embedder_of(resources.settings)
    app.usage_resources = resources
    app.usage_pool = WorkerPool(app)
    register(app)
    if maintenance_queue is not None:
        routes = {task.name: {"queue": maintenance_queue} for task in PERIODIC_TASKS}
        # The app's own routes, in whatever form, are asked first.
        app.conf.task_routes = [*_as_list(app.conf.task_routes), routes]
    lengthen_time_limits(app)
    read_whole_results(app)
    record_processes(app)
    begin_flushes(app)
    # A weak reference would not keep the lambdas alive.
    settings = resources.settings
    worker_ready.connect(lambda **_: log_concerns(settings.redis_url, settings.redis_master), weak=False)
    worker_process_shutdown.connect(lambda **_: resources.close(), weak=False)


def configuration(settings: Settings) -> dict[str, Any]:
    """Return the configuration of our own Celery app."""
    return {
        **broker_of(settings),
        "broker_connection_retry_on_startup": True,
        # By default a worker ends after about an hour without a broker.
        "broker_connection_max_retries": None,
        # A full Redis refuses to note the message that the worker has just taken; by default the worker would end.
        "broker_channel_error_retry": True,
        "task_ignore_result": True,
        # Flower needs these events. Those of senders would tell of each idle flush, too.
        "worker_send_task_events": True,
        # A worker reserves one task at a time for each process: another one could execute what it holds back.
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_consumer": "usage_worker.service.consumer:QuarantiningConsumer",
        # A worker without -Q takes from all queues; with a worker for long tasks, counting never waits for them. The
        # names are plain strings: Flower reads the attribute `name` where there is one, as in members of an enum.
        "task_queues": [_queue(name.value) for name in QueueName],
        "task_default_queue": QueueName.COUNTING.value,
        "task_routes": {task.name: {"queue": QueueName.MAINTENANCE.value} for task in PERIODIC_TASKS},
        "timezone": settings.timezone,
        "beat_schedule": beat_schedule(settings),
    }


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name), routing_key=name)  # type: ignore[no-untyped-call]


def _as_list(routes: Any) -> list[Any]:
    if routes is None:
        return []
    return list(routes) if isinstance(routes, list | tuple) else [routes]
