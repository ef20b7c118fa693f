"""The connections of a process to PostgreSQL."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from usage_worker.errors import (
    RecoveryConflictError,
    StaleSessionError,
    StatementCancelledError,
    StoreUnavailableError,
)
from usage_worker.postgres import (
    connect,
    one_line,
    overrule_environment,
    parameters,
    server_count,
    set_settings,
    translated,
)
from usage_worker.standby_wait import standby_wait
from usage_worker.store.holders import begin, holders, naming_holders
from usage_worker.store.intake import Intake
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import LiteralString

    from usage_worker.postgres import Connection
    from usage_worker.settings import Settings

CONNECT_SECONDS = 5.0
# A query that a replica has cancelled once may succeed while nothing is vacuumed; in between, seconds.
READ_ATTEMPTS, READ_PAUSE = 3, 1.0
_OPTIONS: dict[str, Any] = {"application_name": "usage-worker", "connect_timeout": int(CONNECT_SECONDS)}

T = TypeVar("T")


class _Attempts:
    """Why the last attempt of a pool to connect failed; the pool itself only logs that."""

    def __init__(self, *, pooled: bool) -> None:
        self.pooled = pooled
        self.failure = ""

    def prepare(self, connection: Connection) -> None:
        connection.isolation_level = IsolationLevel.READ_COMMITTED
        if not self.pooled:
            overrule_environment(connection)
            connection.commit()

    def connection_class(self) -> type[Connection]:
        attempts = self

        class Attempt(psycopg.Connection[tuple[Any, ...]]):
            @classmethod
            def connect(cls, *args: Any, **kwargs: Any) -> Self:
                try:
                    connection = super().connect(*args, **kwargs)
                    attempts.prepare(connection)
                except psycopg.Error as error:
                    attempts.failure = one_line(error)
                    raise
                # Not earlier: the pool may give up while the next attempt is under way.
                attempts.failure = ""
                return connection

        return Attempt


class Store:
    """The database of one process: a pool of `connections`, opened at first use (never before a fork).

    `pooled` is true behind a pooler in transaction mode: no transaction then leaves anything in its session.
    `is_replica` is true where it is only read, at the URL for reports. Of several servers in a URL, the one that can be
    written is used, or for reports a standby, if there is one.
    """

    def __init__(
        self, database_url: str, *, pooled: bool = False, connections: int = 1, is_replica: bool = False
    ) -> None:
        """Prepare the pool.

        Raises:
            SettingsError: the URL cannot be read.
        """
        self._url = database_url
        self.pooled = pooled
        self._attempts = _Attempts(pooled=pooled)
        self.is_replica = is_replica
        self._options = _OPTIONS | {"of_several": "prefer-standby" if is_replica else "read-write"}
        arguments = parameters(database_url, pooled=pooled, **self._options)
        self._seconds = CONNECT_SECONDS
        if (servers := server_count(arguments)) > 1:
            # Each may swallow packets, and the last one must have its turn.
            attempts = servers * (2 if is_replica else 1)
            self._seconds = max(CONNECT_SECONDS, attempts * float(arguments["connect_timeout"]) + 1.0)
        self._pool = ConnectionPool(
            connection_class=self._attempts.connection_class(),
            kwargs=arguments,
            min_size=0,
            max_size=connections,
            open=False,
            timeout=self._seconds,
            reconnect_timeout=self._seconds,
            check=ConnectionPool.check_connection,
            name="usage-worker",
        )

    @classmethod
    def of(cls, settings: Settings, connections: int = 1) -> Self:
        """Return the store of the settings' database.

        Raises:
            SettingsError: DATABASE_URL is not set, or cannot be read.
        """
        return cls(settings.require_database(), pooled=settings.pooled, connections=connections)

    @classmethod
    def for_reports(cls, settings: Settings, connections: int = 1) -> Self:
        """Return the store that reports read: the replica, if there is one. Raises like `of`."""
        replica = settings.report_database_url
        url = replica or settings.require_database()
        return cls(url, pooled=settings.pooled, connections=connections, is_replica=bool(replica))

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection; commit at the end of the block, or roll back when it raises.

        Raises:
            StoreUnavailableError: PostgreSQL cannot be reached, or the connection was lost; nothing was committed, or,
                when it was lost during COMMIT, perhaps everything: only the ledger shows which. Or somebody cancelled
                COMMIT's wait for a synchronous standby: a failover would undo it.
            ConcurrencyError: the transaction lost a race; try it again.
            DataRefusedError: PostgreSQL refused a value.
            ObstacleError: something of the application is in the way.
            SchemaError: the schema is missing or too old.
            RoleError: the role lacks a right.
            SettingsError: there is no such database, or the password is wrong.
        """
        with translated(), self._from_pool() as connection:
            try:
                with translated():
                    if self.pooled:
                        set_settings(connection)
                    yield connection
            except StatementCancelledError:
                raise  # the session still works, unless the driver has noticed its end
            except (StoreUnavailableError, StaleSessionError):
                # It may still work, but on a standby, or read-only, as its database was when it was opened, or without
                # what others have committed.
                connection.close()
                raise

    @contextmanager
    def _from_pool(self) -> Iterator[Connection]:
        self._pool.open()
        try:
            with self._pool.connection() as connection, standby_wait(connection):
                yield connection
                # Before others may have it; the pool finds nothing left to commit.
                connection.commit()
        except PoolTimeout as error:
            reason = self._attempts.failure or f"no connection within {self._seconds:g} s"
            variable = "USAGE_REPORT_DATABASE_URL" if self.is_replica else "DATABASE_URL"
            raise StoreUnavailableError(reason, f"is {variable} right and the server up?") from error

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Yield a connection outside the pool, in autocommit. Raises like `connection`."""
        with (
            translated(),
            connect(self._url, pooled=self.pooled, **self._options) as connection,
            standby_wait(connection),
        ):
            yield connection

    def rows(self, statement: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        """Return all rows of a query, as dictionaries. Raises like `read`."""
        return self.read(lambda connection: dict_rows(connection, statement, parameters))

    def long_rows(self, statement: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        """Return all rows of a query that may take longer than the administrator allows clients. Raises like `read`."""

        def fetch(connection: Connection) -> list[dict[str, Any]]:
            connection.execute(query("no_time_limits"))
            return dict_rows(connection, statement, parameters)

        return self.read(fetch)

    def read(self, fetch: Callable[[Connection], T]) -> T:
        """Return what `fetch` reads in one transaction, again where a replica cancels it. Raises like `connection`.

        Raises:
            RecoveryConflictError: the replica has cancelled it three times.
        """
        for _ in range(READ_ATTEMPTS - 1):
            with suppress(RecoveryConflictError), self.connection() as connection:
                return fetch(connection)
            time.sleep(READ_PAUSE)
        with self.connection() as connection:
            return fetch(connection)

    def execute(self, statement: LiteralString, *, alone: bool = False) -> None:
        """Run a statement; `alone` runs it outside a transaction, as VACUUM requires. Raises like `connection`."""
        with self.session() if alone else self.connection() as connection:
            connection.execute(statement)

    def temporary(self, statement: LiteralString) -> LiteralString:
        """Return the statement for a temporary table as it must be here: a shared session must not keep the table."""
        return statement.replace("ON COMMIT DELETE ROWS", "ON COMMIT DROP") if self.pooled else statement

    def intake_totals(self, *, as_arrived: bool = False) -> Intake:
        """Return the intake totals of all days and streams. Raises like `connection`.

        Args:
            as_arrived: what became of the events when they arrived, whatever was erased since then. These never fall:
                Prometheus reads a falling counter as a restart.
        """
        return Intake(**self.rows(query("intake_totals"), as_arrived=as_arrived)[0])

    def now(self) -> datetime:
        """Return the time by the database's clock. Raises like `connection`."""
        return self.read(_now)

    def now_outside_pool(self) -> datetime:
        """Return the same while another thread may have the pool's only connection. Raises like `connection`."""
        with self.session() as connection:
            return _now(connection)

    def data_age(self) -> float | None:
        """Return how many seconds a replica's data are behind, as far as it knows itself; None for a primary.

        Raises like `connection`.
        """
        if not self.is_replica:
            return None
        age: float | None = self.rows(query("data_age"))[0]["seconds"]
        return age

    def ping(self) -> datetime:
        """Check that ingest can write: raises like `connection`, also where the server is read-only.

        Returns the time by the database's clock.

        Raises:
            LockHeldError: somebody holds a whole table; the message names who.
        """
        with self.connection() as connection:
            begin(connection)
            with naming_holders(connection):
                row = connection.execute(query("ready")).fetchone() or ()
        return datetime.fromtimestamp(row[0], UTC)

    def lock_holders(self) -> str:
        """Describe who may hold what a transaction has waited for. Raises like `connection`."""
        with self.connection() as connection:
            return holders(connection)

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dict_rows(
    connection: Connection, statement: LiteralString, parameters: Mapping[str, object] | None = None
) -> list[dict[str, Any]]:
    """Execute a statement within a transaction of the caller's; return its rows by the names of their columns."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, parameters).fetchall()


def _now(connection: Connection) -> datetime:
    return datetime.fromtimestamp(dict_rows(connection, query("clock"))[0]["seconds"], UTC)
