"""The records that workers and beat write about themselves, from a thread of Celery's main process."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from celery.signals import beat_init, worker_ready

from usage_worker.errors import StreamUnavailableError
from usage_worker.events.external_ids import external_ids
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.processes import RECORD_SECONDS, Process, Processes
from usage_worker.service.task_names import FLUSH

if TYPE_CHECKING:
    from celery import Celery

COUNTING = "counting"
MAINTENANCE = "maintenance"


def record_processes(app: Celery) -> None:
    """Let every worker and beat of an app record itself; an application's own app may have other queues."""

    def worker_is_ready(sender: Any, **_: object) -> None:
        if sender.app is app:
            settings = app.usage_resources.settings
            process = Process("worker", roles(sender), _queues(sender), settings.stream_shards, _version())
            namespace = external_ids(settings.id_namespace).namespace
            _start(app, sender.hostname, process._replace(namespace=str(namespace), host=_host()))

    def beat_begins(sender: Any, **_: object) -> None:
        if sender.app is app:
            _start(app, f"beat@{socket.gethostname()}", Process("beat", [], [], None, _version(), host=_host()))

    worker_ready.connect(worker_is_ready, weak=False)
    beat_init.connect(beat_begins, weak=False)


def _start(app: Celery, name: str, process: Process) -> None:
    # A connection of its own: what the pool's processes inherit must not be in use.
    processes = Processes(RedisConnection.of(app.usage_resources.settings))
    threading.Thread(target=_record, args=(processes, name, process), name="usage-process-record", daemon=True).start()


def _record(processes: Processes, name: str, process: Process) -> None:
    started = time.monotonic()
    while True:
        with suppress(StreamUnavailableError):
            processes.record(name, process._replace(uptime=round(time.monotonic() - started, 3)))
        time.sleep(RECORD_SECONDS)


def roles(consumer: Any) -> list[str]:
    """Return what the worker of this consumer does, by the queues that it takes from."""
    queues = set(_queues(consumer))
    tasks = {COUNTING: [FLUSH], MAINTENANCE: [task.name for task in PERIODIC_TASKS]}
    return [role for role, names in tasks.items() if any(queues & queues_of(consumer.app, name) for name in names)]


def _queues(consumer: Any) -> list[str]:
    return [queue.name for queue in consumer.task_consumer.queues]


def queues_of(app: Celery, task: str) -> set[str]:
    """Return the names of the queues that may receive a task's messages by the routes of its app.

    The patterns of a topic exchange are not evaluated: any queue bound to it may.
    """
    try:
        route: dict[str, Any] = app.amqp.router.route({}, task)
    except Exception:  # noqa: BLE001 - a router of the application may read arguments, and here are none
        return set(app.amqp.queues)
    queue, exchange, key = (route.get(name) for name in ("queue", "exchange", "routing_key"))
    # As `send_task_message` in celery/app/amqp.py.
    if queue is None and exchange is None:
        queue = app.amqp.default_queue
    if queue is not None and queue.exchange.type == "direct" and not (exchange and key):
        return {queue.name}
    if queue is not None and exchange is None:
        exchange, key = queue.exchange, key or queue.routing_key
    target = _name(exchange)
    queues = app.amqp.queues.values()
    return {queue.name for queue in queues if any(_takes(bound, target, key) for bound in (queue, *queue.bindings))}


def _takes(bound: Any, exchange: str, key: str | None) -> bool:
    return _name(bound.exchange) == exchange and (bound.exchange.type != "direct" or bound.routing_key == key)


def _name(entity: Any) -> str:
    return str(getattr(entity, "name", entity))


def _host() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


def _version() -> str:
    return version("usage-worker")
