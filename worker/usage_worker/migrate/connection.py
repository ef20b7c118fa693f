"""Connections of the runner, the lock that lets only one run, and the driver's errors in our words."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from usage_worker import postgres
from usage_worker.errors import MigrationError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.postgres import Connection

READ_NAME = "usage-worker schema"
WORK_NAME = "usage-worker migrate"
LOCK_NAME = "usage-worker migrate lock"
LOCK_KEY = int.from_bytes(b"usagemig", "big")
POLL_SECONDS = 0.2
# No role or database setting may cut a long step short or lead a name elsewhere; IF EXISTS need not be chatty.
SESSION = """
SET client_encoding = 'UTF8';
SET search_path = public;
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET idle_session_timeout = 0;
SET client_min_messages = warning;
"""


@contextmanager
def connect(database_url: str, name: str = READ_NAME) -> Iterator[Connection]:
    """A connection in autocommit that no role or database setting can cut short.

    Raises:
        StoreUnavailableError: there is no server, or it went away; the message never holds the password.
    """
    with translated(), postgres.connect(database_url, application_name=name) as connection:
        connection.execute(SESSION)
        yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the driver raises into our errors."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise StoreUnavailableError(one_line(error)) from error
    except psycopg.Error as error:
        raise MigrationError(one_line(error)) from error


@contextmanager
def exclusive(database_url: str, *, wait: bool, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the migration lock of this database, on a connection that does nothing else.

    Polled, never awaited: a session that waits for an advisory lock holds a snapshot, for which CREATE INDEX
    CONCURRENTLY of the session that has the lock would wait.

    Raises:
        MigrationError: somebody else holds it and `wait` is off.
    """
    with connect(database_url, LOCK_NAME) as connection:
        told = False
        while not _try_lock(connection):
            if not wait:
                raise MigrationError("another migration of this database is running; try again when it has ended")
            if not told:
                waiting()
                told = True
            time.sleep(POLL_SECONDS)
        _end_orphans(connection)
        yield


def one_line(error: psycopg.Error) -> str:
    """The server's message, and its hint where there is one, without line breaks."""
    parts = (error.diag.message_primary or str(error), error.diag.message_hint)
    return "; ".join(" ".join(part.split()) for part in parts if part)


def _try_lock(connection: Connection) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone()
    return bool(row and row[0])


def _end_orphans(connection: Connection) -> None:
    """End what a killed runner left working: its server process notices only when its statement is done."""
    orphans = (
        "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = current_user AND application_name = %s"
    )
    while connection.execute(orphans, [WORK_NAME]).fetchall():
        time.sleep(POLL_SECONDS)
