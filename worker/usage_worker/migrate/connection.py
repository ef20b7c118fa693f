"""Connections of the runner, the lock that allows one run at a time, and the time that a statement waits for a lock."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from usage_worker import postgres
from usage_worker.errors import MigrationError, RoleError, StoreUnavailableError
from usage_worker.migrate.queries import query
from usage_worker.standby_wait import standby_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.migrate.files import Migration
    from usage_worker.postgres import Connection

READ_NAME = "usage-worker schema"
WORK_NAME = "usage-worker migrate"
LOCK_NAME = "usage-worker migrate lock"
LOCK_KEY = int.from_bytes(b"usagemig", "big")
POLL_SECONDS = 0.2
DIRECT_URL = "migrations need sessions of their own: set DATABASE_URL to PostgreSQL itself, not to a pooler"


@contextmanager
def connect(database_url: str, name: str = READ_NAME, *, pooled: bool = False) -> Iterator[Connection]:
    """Open a connection in autocommit mode that no role or database setting can end early.

    `pooled` opens one for reading, in one transaction, where `DATABASE_URL` leads to a pooler.

    Raises:
        MigrationError: PostgreSQL refused a statement, or a pooler is in between.
        RoleError: the role lacks a right.
        SettingsError: the URL cannot be read.
        StoreUnavailableError: there is no server, it went away, or somebody cancelled the wait for its standby.
    """
    opened = partial(postgres.connect, database_url, pooled=pooled, application_name=name)
    with _translated(), opened() as connection, standby_wait(connection):
        if pooled:
            with connection.transaction():
                postgres.set_settings(connection)
                yield connection
            return
        _refuse_pooler(connection, database_url)
        connection.execute(query("session_settings"))
        yield connection


def _refuse_pooler(connection: Connection, database_url: str) -> None:
    """Refuse a pooler that gives the same session to two connections; a proxy that keeps them apart is no obstacle.

    Raises:
        MigrationError: it is one.
    """
    session = connection.execute(query("session")).fetchone()
    if session == (connection.info.backend_pid,):
        return
    with postgres.connect(database_url) as other:
        if other.execute(query("session")).fetchone() == session:
            raise MigrationError(DIRECT_URL)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the driver's errors into ours; what is not an outage ends the migration, whatever it is."""
    try:
        yield
    except psycopg.Error as error:
        if postgres.POOLER_REFUSAL in str(error):
            raise MigrationError(DIRECT_URL) from None
        kind = postgres.meaning(error)
        if kind is RoleError:
            raise RoleError(postgres.one_line(error, with_hint=True), postgres.NEEDS_OWNER) from error
        raise (kind if kind is StoreUnavailableError else MigrationError)(one_line(error)) from error


@contextmanager
def exclusive(database_url: str, *, wait: bool, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the migration lock of this database, on a connection that does nothing else.

    The lock is polled: a session that blocks on an advisory lock holds a snapshot, and CREATE INDEX CONCURRENTLY in
    the session with the lock would wait for that snapshot.

    Args:
        database_url: the database to lock.
        wait: wait for another run to end instead of failing.
        waiting: called once if the lock is taken.

    Raises:
        MigrationError: another run holds the lock and `wait` is false.
    """
    with connect(database_url, LOCK_NAME) as connection:
        announced = False
        while not _try_lock(connection):
            if not wait:
                raise MigrationError("another migration of this database is running; try again when it has ended")
            if not announced:
                waiting()
                announced = True
            time.sleep(POLL_SECONDS)
        _end_orphans(connection)
        yield


def lock_timeout(migration: Migration) -> sql.Composed:
    """Build the statement that limits how long the migration waits for a lock, in either direction."""
    return sql.SQL("SET lock_timeout = {}").format(sql.Literal(migration.lock_timeout))


def one_line(error: psycopg.Error) -> str:
    """Return the server's message and hint; the hint says what to do about a statement that it refused."""
    if isinstance(error, psycopg.errors.DependentObjectsStillExist):
        # The hint is CASCADE, which drops what is not ours.
        dependents = ", ".join((error.diag.message_detail or "").splitlines())
        message = f"{postgres.one_line(error)}: {dependents}"
        return f"{message}; drop what depends on it, run this command again, then create that again"
    message = postgres.one_line(error, with_hint=True)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        message += f"; {postgres.NEEDS_OWNER}"
    return message


def _try_lock(connection: Connection) -> bool:
    row = connection.execute(query("try_lock"), [LOCK_KEY]).fetchone()
    return bool(row and row[0])


def _end_orphans(connection: Connection) -> None:
    """Terminate sessions of a killed runner, whose server process would notice only at the end of its statement."""
    orphans = query("end_orphans")
    while connection.execute(orphans, [WORK_NAME]).fetchall():
        time.sleep(POLL_SECONDS)
