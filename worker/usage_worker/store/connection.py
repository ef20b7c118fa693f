"""Connections to PostgreSQL, and the translation of the driver's errors for the store."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import errors
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

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
from usage_worker.postgres import connect, parameters
from usage_worker.store.intake import Intake
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import LiteralString

    from usage_worker.postgres import Connection

CONNECT_SECONDS = 5.0

# Our errors and the driver's errors that they stand for; the first match counts.
_MEANINGS: tuple[tuple[type[UsageError], tuple[type[psycopg.Error], ...]], ...] = (
    (DuplicateError, (errors.UniqueViolation,)),
    (OutOfRangeError, (errors.NumericValueOutOfRange,)),
    (ReferenceMissingError, (errors.ForeignKeyViolation,)),
    # Lost races: a second attempt of the transaction meets another state. A vanished parent row is one, too (above),
    # and so is a partition that another worker has just created.
    (
        ConcurrencyError,
        (
            errors.DeadlockDetected,
            errors.SerializationFailure,
            errors.DuplicateTable,
            errors.LockNotAvailable,
        ),
    ),
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
_OPTIONS: dict[str, Any] = {"application_name": "usage-worker", "connect_timeout": int(CONNECT_SECONDS)}
_ADVICE = {SchemaError: "; run `usage-worker migrate up`", SettingsError: "; is DATABASE_URL right?"}


class Store:
    """The database of one process: a pool of one connection, opened at first use (never before a fork)."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._pool = ConnectionPool(
            kwargs=parameters(database_url, **_OPTIONS),
            min_size=0,
            max_size=1,
            open=False,
            timeout=CONNECT_SECONDS,
            reconnect_timeout=CONNECT_SECONDS,
            check=ConnectionPool.check_connection,
            name="usage-worker",
        )

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection; commit at the end of the block, or roll back when it raises.

        Raises:
            StoreUnavailableError: PostgreSQL cannot be reached, or the connection was lost; nothing was committed, or,
                when it was lost during COMMIT, perhaps everything: only the ledger shows which.
            ConcurrencyError: the transaction lost a race; try it again.
            DataRefusedError: PostgreSQL refused a value.
            SchemaError: the schema is missing or too old.
        """
        with translated():
            self._pool.open()
            with self._pool.connection() as connection:
                try:
                    with translated():
                        yield connection
                except StoreUnavailableError:
                    # It may still work, but on a standby, or read-only, as its database was when it was opened.
                    connection.close()
                    raise

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Yield a connection outside the pool, in autocommit. Raises like `connection`."""
        with translated(), connect(self._url, **_OPTIONS) as connection:
            yield connection

    def rows(self, statement: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        """Return all rows of a query, as dictionaries."""
        with self.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement, parameters).fetchall()

    def execute(self, statement: LiteralString, *, alone: bool = False) -> None:
        """Run a statement; `alone` runs it outside a transaction, as VACUUM requires."""
        with self.connection() as connection:
            if alone:
                connection.set_autocommit(True)
            try:
                connection.execute(statement)
            finally:
                if alone:
                    connection.set_autocommit(False)

    def intake_totals(self) -> Intake:
        """Return the intake totals of all days and streams."""
        return Intake(**self.rows(query("intake_totals"))[0])

    def ping(self) -> None:
        """Check that ingest can write: raises like `connection`, also where the server is read-only."""
        self.execute(query("ready"), alone=True)

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into ours, keeping the cause."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailableError(
            f"no connection within {CONNECT_SECONDS:g} s; is DATABASE_URL right and the server up?"
        ) from error
    except psycopg.Error as error:
        # The primary message only, in tracebacks, too: detail and context quote whole rows.
        message = (error.diag.message_primary or str(error)).partition("\n")[0]
        error.args = (message,)
        meaning = _meaning(error)
        if meaning is None:
            raise  # a bug keeps its name and traceback
        raise meaning(message + _ADVICE.get(meaning, "")) from error


def _meaning(error: psycopg.Error) -> type[UsageError] | None:
    for meaning, kinds in _MEANINGS:
        if isinstance(error, kinds):
            return meaning
    return None if isinstance(error, _BUGS) else DataRefusedError
