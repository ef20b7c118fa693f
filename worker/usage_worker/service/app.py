"""The Celery application: `celery -A usage_worker.service.app worker|beat|flower`. Everything is put together here."""

from __future__ import annotations

import gc
import logging
import sys
from functools import cached_property
from typing import Any
from urllib.parse import quote

from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.signals import import_modules, setup_logging, task_failure, worker_process_init, worker_process_shutdown
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.utils.url import maybe_sanitize_url
from redis.connection import SSLConnection, parse_url

from usage_worker.errors import SettingsError, UsageError
from usage_worker.logs import configure_logs, get_logger
from usage_worker.service.queues import QueueName
from usage_worker.service.resources import Resources
from usage_worker.service.schedule import PERIODIC_TASKS, beat_schedule
from usage_worker.settings import Settings, load_settings

# Objects made, less those freed, before the garbage collector looks at the young ones.
COLLECT_AFTER = 100_000
# Seconds until a thread that has the interpreter lets another one have it, 5 ms by default.
SWITCH_AFTER = 0.0003
# What a URL may say about time, and both the Redis client and kombu know.
_TIMEOUTS = (
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "health_check_interval",
    "retry_on_timeout",
)

log = get_logger("tasks")


class _Connection(Connection):
    """Describes itself without its password, which stands in the URL of a Unix socket: `celery inspect stats` prints
    the description, and Flower shows it.
    """

    def info(self) -> dict[str, Any]:
        return {**super().info(), "hostname": maybe_sanitize_url(self.hostname)}  # type: ignore[no-untyped-call]


class _AMQP(AMQP):  # type: ignore[misc]
    Connection = _Connection


class UsageApp(Celery):  # type: ignore[misc]
    """Celery, knowing our settings."""

    amqp_cls = _AMQP

    def __init__(self, settings: Settings) -> None:
        super().__init__("usage-worker", include=["usage_worker.service.tasks"])
        self.settings = settings
        self.conf.update(configuration(settings))

    @cached_property
    def resources(self) -> Resources:
        """What this process holds open."""
        return Resources(self.settings)


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's configuration."""
    return {
        **broker_settings(settings.redis_url),
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
        # Queues and plain strings, since Flower asks everything for its `name`, which an enum's member has, too.
        "task_queues": [_queue(name.value) for name in QueueName],
        "task_default_queue": QueueName.COUNTING.value,
        "task_routes": {task: {"queue": QueueName.MAINTENANCE.value} for task in PERIODIC_TASKS.values()},
        "timezone": settings.timezone,
        "beat_schedule": beat_schedule(settings),
    }


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name), routing_key=name)  # type: ignore[no-untyped-call]


def broker_settings(redis_url: str) -> dict[str, Any]:
    """Celery's settings for the Redis of the URL, which the Redis client reads here as it does for the stream.

    Raises:
        SettingsError: it cannot read it.
    """
    try:
        given = parse_url(redis_url)  # type: ignore[no-untyped-call]
    except ValueError:
        # The driver's words quote the URL, which may hold a password.
        raise SettingsError("REDIS_URL is not one that the Redis driver understands") from None
    user, password, database = given.get("username", ""), given.get("password", ""), given.get("db", 0)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    settings = {"broker_transport_options": {key: given[key] for key in _TIMEOUTS if key in given}}
    if path := given.get("path"):
        return settings | {"broker_url": f"redis+socket://{login}{quote(path)}?virtual_host={database}"}
    host, port = given.get("host", "localhost"), given.get("port", 6379)
    place = f"[{host}]" if ":" in host else quote(host)
    url = f"://{login}{place}:{port}/{database}"
    if given.get("connection_class") is not SSLConnection:
        return settings | {"broker_url": f"redis{url}"}
    # Without a word about TLS, kombu would verify nothing; these are the defaults of the Redis client.
    tls = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    tls |= {key: value for key, value in given.items() if key.startswith("ssl_")}
    return settings | {"broker_url": f"rediss{url}", "broker_use_ssl": tls}


def broker_url(redis_url: str) -> str:
    """The URL of the same Redis as Celery spells it."""
    url: str = broker_settings(redis_url)["broker_url"]
    return url


# Flower never asks for logs to be set up, and sends no other signal.
@import_modules.connect  # type: ignore[untyped-decorator]
@setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logs(**_: object) -> None:
    configure_logs(app.settings)
    # Celery announces every trigger three times a second and shard; what a flush did, ingest says itself. Its pool
    # shows the arguments of every task, where debugging is on.
    for chatty in ("celery.app.trace", "celery.worker.strategy", "celery.beat", "celery.pool"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("celery.worker.consumer.consumer").addFilter(_without_bodies)


def _without_bodies(record: logging.LogRecord) -> bool:
    """Of a message that it cannot read Celery shows all, people's data included: keep the line that says why."""
    if "body" in str(record.msg):
        record.msg, record.args = record.getMessage().partition("\n")[0].partition(" [type:")[0], ()
    return True


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
