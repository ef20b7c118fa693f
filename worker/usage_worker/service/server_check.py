"""What a worker or beat does at its start about its servers: the Redis that REDIS_URL names, the ids in PostgreSQL."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, NoReturn

from usage_worker.errors import NamespaceError, StreamUnavailableError, UnusableServerError, UsageError
from usage_worker.ingest import require_namespace
from usage_worker.logs import get_logger, report_failure
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.server import server_facts
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from usage_worker.queue.server import Concern
    from usage_worker.settings import Settings

log = get_logger("redis")


def leave_unusable_server(redis_url: str, master: str) -> None:
    """End the process where no server of this kind can be used; else log why it is not available, as Celery waits.

    Raises:
        SystemExit: the server, or REDIS_URL, can never work.
    """
    try:
        with closing(RedisConnection(redis_url, master=master)) as connection:
            for name in connection.servers():
                with connection.server(name):
                    pass  # the first use asks the server what it is
    except UnusableServerError as error:
        leave(str(error))
    except StreamUnavailableError as error:
        log.warning(str(error))


def leave_other_namespace(settings: Settings) -> None:
    """End a worker that would make other UUIDs of the ids that the database has. A flush reports all other errors.

    Raises:
        SystemExit: USAGE_ID_NAMESPACE differs from the namespace of these.
    """
    if not settings.database_url:
        return
    with suppress(UsageError), Store(settings.database_url, pooled=settings.pooled) as store:
        try:
            require_namespace(store, settings.id_namespace)
        except NamespaceError as error:
            leave(str(error))


def log_concerns(redis_url: str, master: str) -> None:
    """Log each threat to events on a server."""
    try:
        with closing(RedisConnection(redis_url, master=master)) as connection:
            for name in connection.servers():
                for concern in server_facts(connection, name).concerns_as(connection.kind, name):
                    log_concern(log, concern)
    except StreamUnavailableError as error:
        log.warning(str(error))


def leave(reason: str) -> NoReturn:
    """End the process with one line that says why it can never work."""
    report_failure(reason)
    raise SystemExit(1)


def log_concern(log: FilteringBoundLogger, concern: Concern) -> None:
    """Log a threat: a warning where the server loses or refuses something, else for information."""
    write = log.warning if concern.state == "fail" else log.info
    write(str(concern))
