"""What a worker or beat does at its start about its servers: the Redis that REDIS_URL names, the ids in PostgreSQL."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

from usage_worker.errors import NamespaceError, StreamUnavailableError, UnusableServerError, UsageError
from usage_worker.ingest import require_namespace
from usage_worker.logs import get_logger, report_failure
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.server import server_facts
from usage_worker.store import Store

if TYPE_CHECKING:
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
        report_failure(str(error))
        raise SystemExit(1) from None
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
            report_failure(str(error))
            raise SystemExit(1) from None


def log_concerns(redis_url: str, master: str) -> None:
    """Log each threat to events on a server: a warning for one that loses or refuses them, else for information."""
    try:
        with closing(RedisConnection(redis_url, master=master)) as connection:
            for name in connection.servers():
                for concern in server_facts(connection, name).concerns_as(connection.kind, name):
                    write = log.warning if concern.state == "fail" else log.info
                    write(str(concern))
    except StreamUnavailableError as error:
        log.warning(str(error))
