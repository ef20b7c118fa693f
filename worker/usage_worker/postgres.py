"""Connections to PostgreSQL: how DATABASE_URL is read, which options every connection has, what its errors mean.

No message holds a password or a row. The driver's complaints about a URL quote it, and the server's detail and context
quote whole rows: neither reaches a message or a traceback of ours.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict

from usage_worker.errors import (
    ConcurrencyError,
    DataRefusedError,
    DuplicateError,
    LockHeldError,
    ObstacleError,
    OutOfRangeError,
    PartitionMissingError,
    RecoveryConflictError,
    ReferenceMissingError,
    RoleError,
    SchemaError,
    SettingsError,
    StatementCancelledError,
    StoreUnavailableError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Connection = psycopg.Connection[tuple[Any, ...]]

# Unless the URL or the caller gives another one.
_CONNECT_SECONDS = 10
# For each of several servers, of which one may swallow packets: less is not possible. The URL may give another one.
_CONNECT_SECONDS_OF_SEVERAL = 2
_OPTIONS: dict[str, Any] = {
    # Events may hold any text, whatever encoding the URL, PGCLIENTENCODING, the role or the database set.
    "client_encoding": "UTF8",
    # A server that vanishes without closing the connection (a failover, a cut cable) is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

# What our statements, and the texts that we read and write, depend on: set in every session, since the role, the
# database or the environment may have set anything. Read-only mode, timeouts and `synchronous_commit` are the
# administrator's.
_SETTINGS = {
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "search_path": "public",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "exit_on_error": "off",
    "row_security": "on",
    "default_transaction_isolation": "read committed",
    # With a higher one, nobody would learn that COMMIT has not waited for its standby.
    "client_min_messages": "notice",
    # With it the purge tells our trigger what it does.
    "usage_worker.action": "",
}
# Those that libpq takes from PGTZ and PGDATESTYLE.
_OF_ENVIRONMENT = ("DateStyle", "TimeZone")
# PgBouncer 1.18 refuses `options` with these words, later ones most of the settings in it.
POOLER_REFUSAL = "unsupported startup parameter"

# Lost races, which succeed when they are retried.
LOST_RACES = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)
# Our errors and the driver's errors that they stand for; the first match counts.
_MEANINGS: tuple[tuple[type[UsageError], tuple[type[psycopg.Error], ...]], ...] = (
    (DuplicateError, (errors.UniqueViolation,)),
    (OutOfRangeError, (errors.NumericValueOutOfRange,)),
    (ReferenceMissingError, (errors.ForeignKeyViolation,)),
    (LockHeldError, (errors.LockNotAvailable,)),
    # A second attempt of the transaction also meets another state where a parent row has vanished (above), or where
    # another worker has just created the same partition.
    (ConcurrencyError, (*LOST_RACES, errors.DuplicateTable)),
    (SchemaError, (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction, errors.InvalidSchemaName)),
    (RoleError, (errors.InsufficientPrivilege,)),
    (SettingsError, (errors.InvalidCatalogName, errors.InvalidPassword)),
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
    (StatementCancelledError, (errors.QueryCanceled, errors.TransactionTimeout)),
    # After a failover the server may be a standby; a process that was stopped for a while has lost its session.
    (
        StoreUnavailableError,
        (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            errors.ReadOnlySqlTransaction,
            errors.IdleInTransactionSessionTimeout,
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
_SET_SETTINGS = sql.SQL("; ").join(
    sql.SQL("SET LOCAL {} = {}").format(sql.SQL(name), sql.Literal(value)) for name, value in _SETTINGS.items()
)
MIGRATE_UP = "run `usage-worker migrate up`"
NEEDS_OWNER = "this needs the owner's DATABASE_URL"
_NEEDS_PRIMARY = "name the primary in DATABASE_URL, or several hosts, of which the one that can be written is used"
# How the driver lists its attempts to connect to several servers.
_ATTEMPT = re.compile(r"^- host: (None|'.*?'), port: (None|'.*?'), hostaddr: (?:None|'.*?'): (.*)$", re.MULTILINE)
# A replica cancels a query that needs what it must remove to go on.
RECOVERY_CONFLICT = "conflict with recovery"
_ADVICE = {
    SchemaError: MIGRATE_UP,
    RoleError: NEEDS_OWNER,
    SettingsError: "is DATABASE_URL right?",
}


def parameters(
    database_url: str, *, pooled: bool = False, of_several: str = "read-write", **overrides: Any
) -> dict[str, Any]:
    """Return the arguments of the driver's `connect`; the overrides replace those of the URL.

    A pooler in transaction mode has no session that could keep settings or prepared statements: `pooled` omits both,
    and each transaction begins with `set_settings`. Of several servers in the URL, the first counts that is what
    `target_session_attrs` says, in the URL or else `of_several`.

    Raises:
        SettingsError: the URL cannot be read.
    """
    try:
        given = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        # The driver quotes the part that it could not read, which may be the password.
        raise SettingsError("DATABASE_URL cannot be read; write / # ? @ % in a password as %2F %23 …") from None
    if pooled:
        session: dict[str, Any] = {"prepare_threshold": None}
    else:
        ours = (f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in _SETTINGS.items())
        theirs = str(given.get("options") or os.environ.get("PGOPTIONS", ""))
        session = {"options": " ".join([theirs, *ours])}
    found = {"connect_timeout": _CONNECT_SECONDS, **given, **_OPTIONS, **session, **overrides}
    if server_count(given) > 1:
        choice = os.environ.get("PGTARGETSESSIONATTRS") or of_several
        found["target_session_attrs"] = given.get("target_session_attrs") or choice
        found["connect_timeout"] = given.get("connect_timeout") or _CONNECT_SECONDS_OF_SEVERAL
    return found


def server_count(given: Mapping[str, Any]) -> int:
    """Return how many servers the arguments of `connect` name, or else the environment."""
    hosts = given.get("host") or os.environ.get("PGHOST") or given.get("hostaddr") or os.environ.get("PGHOSTADDR")
    return str(hosts or "").count(",") + 1


def connect(database_url: str, *, pooled: bool = False, **overrides: Any) -> Connection:
    """Open a connection in autocommit, whose session has our settings unless it is `pooled`.

    Raises:
        SettingsError: the URL cannot be read.
        psycopg.Error: the server did not accept the connection.
    """
    connection = psycopg.connect(**parameters(database_url, pooled=pooled, **overrides), autocommit=True)
    if not pooled:
        overrule_environment(connection)
    return connection


def overrule_environment(connection: Connection) -> None:
    """Set what PGTZ and PGDATESTYLE have set otherwise; they count more than `options`."""
    reported = {name: connection.info.parameter_status(name) for name in _OF_ENVIRONMENT}
    for name, value in reported.items():
        if (value or "").replace(" ", "") != _SETTINGS[name]:
            connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(_SETTINGS[name])))


def set_settings(connection: Connection) -> None:
    """Begin a transaction with our settings, which end with it."""
    connection.execute(_SET_SETTINGS)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into ours, keeping the cause; a bug in a statement keeps its name and traceback."""
    try:
        yield
    except psycopg.Error as error:
        message, kind = one_line(error), meaning(error)
        if kind is None:
            raise
        raise kind(message, _ADVICE.get(kind, "")) from error
    except UnicodeEncodeError as error:
        # Half a surrogate pair, as in a word of the command line that is not UTF-8.
        raise DataRefusedError(f"a text cannot be encoded as {error.encoding.upper()}") from error


def meaning(error: psycopg.Error) -> type[UsageError] | None:
    """Return our class for an error of the driver, None for a bug in a statement."""
    if RECOVERY_CONFLICT in str(error):
        return RecoveryConflictError
    # "no partition of relation … found for row" names the table, and no constraint.
    if isinstance(error, errors.CheckViolation) and error.diag.table_name and not error.diag.constraint_name:
        return PartitionMissingError
    for kind, kinds in _MEANINGS:
        if isinstance(error, kinds):
            return kind
    return None if isinstance(error, _BUGS) else DataRefusedError


def one_line(error: psycopg.Error, *, with_hint: bool = False) -> str:
    """Return the first line of the server's message, and cut the error to it, for tracebacks."""
    message = error.diag.message_primary or _attempts(str(error)) or str(error)
    message = message.partition("\n")[0]
    if POOLER_REFUSAL in message:
        message += "; behind a pooler set USAGE_POOLED=1"
    if RECOVERY_CONFLICT in message:
        message += "; run it again, or set hot_standby_feedback or a longer max_standby_streaming_delay on the replica"
    if isinstance(error, errors.ReadOnlySqlTransaction):
        message += f"; {_NEEDS_PRIMARY}"
    if with_hint and error.diag.message_hint:
        message += "; " + " ".join(error.diag.message_hint.split())
    error.args = (message,)
    return message


def _attempts(text: str) -> str:
    """Return why none of several servers could be used, each by its name; empty where only one was tried."""
    attempts = (
        (host.strip("'"), port.strip("'"), reason.rpartition(" failed: ")[2])
        for host, port, reason in _ATTEMPT.findall(text)
    )
    return "; ".join(
        f"{host if host.startswith('/') else f'{host}:{port}'}: {reason}" for host, port, reason in attempts
    )
