"""Connections to PostgreSQL: how DATABASE_URL is read, which options every connection has, what its errors mean.

No message holds a password or a row. The driver's complaints about a URL quote it, and the server's detail and context
quote whole rows: neither reaches a message or a traceback of ours.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from usage_worker.errors import (
    ConcurrencyError,
    DataRefusedError,
    DuplicateError,
    ObstacleError,
    OutOfRangeError,
    ReferenceMissingError,
    SchemaError,
    SettingsError,
    StoreUnavailableError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Connection = psycopg.Connection[tuple[Any, ...]]

# Unless the URL or the caller gives another one.
_CONNECT_SECONDS = 10
_OPTIONS: dict[str, Any] = {
    # Events may hold any text, whatever encoding the URL, PGCLIENTENCODING, the role or the database set.
    "client_encoding": "UTF8",
    # A server that vanishes without closing the connection (a failover, a cut cable) is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

# Lost races, which succeed when they are retried.
LOST_RACES = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)
# Our errors and the driver's errors that they stand for; the first match counts.
_MEANINGS: tuple[tuple[type[UsageError], tuple[type[psycopg.Error], ...]], ...] = (
    (DuplicateError, (errors.UniqueViolation,)),
    (OutOfRangeError, (errors.NumericValueOutOfRange,)),
    (ReferenceMissingError, (errors.ForeignKeyViolation,)),
    # A second attempt of the transaction also meets another state where a parent row has vanished (above), or where
    # another worker has just created the same partition.
    (ConcurrencyError, (*LOST_RACES, errors.DuplicateTable)),
    (SchemaError, (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction, errors.InvalidSchemaName)),
    (SettingsError, (errors.InsufficientPrivilege, errors.InvalidCatalogName, errors.InvalidPassword)),
    # A view on a partition that is to be dropped, or a partition that the application made where ours should be.
    (
        ObstacleError,
        (
            errors.DependentObjectsStillExist,
            errors.InvalidObjectDefinition,
            errors.ObjectNotInPrerequisiteState,
        ),
    ),
    # For the driver, exceeded program limits are OperationalErrors, as outages are; the cause is a value.
    (
        DataRefusedError,
        (
            psycopg.DataError,
            psycopg.IntegrityError,
            errors.ProgramLimitExceeded,
            errors.StatementTooComplex,
            # Raised by PL/pgSQL, in a trigger that the application added.
            errors.PlpgsqlError,
            errors.RaiseException,
            errors.NoDataFound,
            errors.TooManyRows,
            errors.AssertFailure,
        ),
    ),
    # After a failover the server may be a standby; a process that was stopped for a while has lost its session.
    (
        StoreUnavailableError,
        (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            errors.ReadOnlySqlTransaction,
            errors.IdleInTransactionSessionTimeout,
            errors.TransactionTimeout,
        ),
    ),
)
# Bugs in our statements: they keep their name and traceback.
_BUGS = (psycopg.ProgrammingError, psycopg.NotSupportedError)
# Errors that do not depend on the batch: the same one succeeds later. Any other error is caused by its data.
OUTAGES = (
    ConcurrencyError,
    SchemaError,
    SettingsError,
    ObstacleError,
    StoreUnavailableError,
    MemoryError,
    *_BUGS,
)
_ADVICE = {SchemaError: "; run `usage-worker migrate up`", SettingsError: "; is DATABASE_URL right?"}


def parameters(database_url: str, **overrides: Any) -> dict[str, Any]:
    """Return the arguments of the driver's `connect`; the overrides replace those of the URL.

    Raises:
        SettingsError: the URL cannot be read.
    """
    try:
        given = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        # The driver quotes the part that it could not read, which may be the password.
        raise SettingsError("DATABASE_URL cannot be read; write / # ? @ % in a password as %2F %23 …") from None
    return {"connect_timeout": _CONNECT_SECONDS, **given, **_OPTIONS, **overrides}


def connect(database_url: str, **overrides: Any) -> Connection:
    """Open a connection in autocommit.

    Raises:
        SettingsError: the URL cannot be read.
        psycopg.Error: the server did not accept the connection.
    """
    return psycopg.connect(**parameters(database_url, **overrides), autocommit=True)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into ours, keeping the cause; a bug in a statement keeps its name and traceback."""
    try:
        yield
    except psycopg.Error as error:
        message, kind = one_line(error), meaning(error)
        if kind is None:
            raise
        raise kind(message + _ADVICE.get(kind, "")) from error


def meaning(error: psycopg.Error) -> type[UsageError] | None:
    """Return our class for an error of the driver, None for a bug in a statement."""
    for kind, kinds in _MEANINGS:
        if isinstance(error, kinds):
            return kind
    return None if isinstance(error, _BUGS) else DataRefusedError


def one_line(error: psycopg.Error, *, with_hint: bool = False) -> str:
    """Return the first line of the server's message, and cut the error to it, for tracebacks."""
    message = (error.diag.message_primary or str(error)).partition("\n")[0]
    if with_hint and error.diag.message_hint:
        message += "; " + " ".join(error.diag.message_hint.split())
    error.args = (message,)
    return message
