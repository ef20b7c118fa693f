"""Moving a database from one schema version to another, so that a kill at any moment costs only time."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql

from usage_worker.errors import MigrationError, SchemaError
from usage_worker.migrate import journal, marks, obstacles, plans
from usage_worker.migrate.connection import WORK_NAME, connect, exclusive, one_line
from usage_worker.migrate.files import EMPTY, discover, split_statements
from usage_worker.migrate.verify import Deviation, deviations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.journal import JournalRecord, SchemaStatus
    from usage_worker.migrate.marks import Kept
    from usage_worker.postgres import Connection

RETRY_SECONDS = 120.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

# Lost races; tried again they go through.
_TRANSIENT = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
_CONCURRENT_INDEX = re.compile(
    r"""CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"?(\w+)"?\s""", re.IGNORECASE
)


Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Step:
    """Progress of a run: `migration` is None while it waits for another run to end."""

    event: Literal["waiting", "started", "retrying", "done"]
    direction: Direction
    migration: Migration | None = None
    duration_ms: int | None = None
    detail: str = ""


OnStep = Callable[[Step], None]


class Runner:
    """Migrates one database. Every method opens its own connections and closes them."""

    def __init__(self, database_url: str, directory: Path | None = None) -> None:
        self._url = database_url
        self._migrations = discover(directory)

    def up(self, to: str | None = None, *, wait: bool = True, report: OnStep | None = None) -> list[Migration]:
        """Apply what is missing up to the version, by default the latest; return what was applied.

        Raises:
            MigrationError: a step failed, a file was edited, or another run holds the lock and `wait` is off.
            ObstacleError: what is not ours has a name that a step needs, or the database's encoding cannot hold every
                text; nothing was changed.
            SchemaError: the database is newer than this code, or than `to`.
            StoreUnavailableError: the database cannot be reached.
        """
        target = to or self._migrations[-1].version
        plans.check_known(self._migrations, target)
        return self._run("up", target, wait, report)

    def down(self, to: str, *, wait: bool = True, report: OnStep | None = None) -> list[Migration]:
        """Roll back to the version, "0.0.0" being nothing; return what was rolled back. Raises like `up`."""
        if to != EMPTY:
            plans.check_known(self._migrations, to)
        return self._run("down", to, wait, report)

    def kept_by_down(self, to: str) -> list[Kept] | None:
        """What the way down to the version would put aside; None where there is no way to go. Changes nothing.

        Raises:
            MigrationError, SchemaError, ObstacleError, StoreUnavailableError: `down` would raise it.
        """
        if to != EMPTY:
            plans.check_known(self._migrations, to)
        with connect(self._url) as connection, connection.transaction(force_rollback=True):
            plan, _ = self._prepare(connection, "down", to)
            return marks.kept(connection, plan) if plan else None

    def status(self) -> SchemaStatus:
        """Where the database is; changes nothing."""
        with connect(self._url) as connection:
            return journal.status(self._migrations, journal.read(connection))

    def verify(self) -> list[Deviation]:
        """Where the database differs from what the migrations applied to it have made.

        Raises:
            SchemaError: nothing is installed, or the database is newer than this code.
        """
        with connect(self._url) as connection:
            entries = journal.read(connection)
            if not entries:
                raise SchemaError("nothing is installed; run usage-worker migrate up")
            journal.refuse_unknown_migrations(self._migrations, entries)
            applied = [step for step in self._migrations if journal.is_applied(entries, step)]
            unfinished = [
                Deviation("migration", f"{entry.number:03d}_{entry.name}", f"is {entry.state}; run it again")
                for entry in entries.values()
                if entry.state != "applied"
            ]
            return unfinished + deviations(connection, applied)

    def _run(self, direction: Direction, target: str, wait: bool, report: OnStep | None) -> list[Migration]:
        on_step = report or (lambda _: None)
        with (
            exclusive(self._url, wait=wait, waiting=lambda: on_step(Step("waiting", direction))),
            connect(self._url, WORK_NAME) as connection,
        ):
            # What is refused has changed nothing.
            with connection.transaction():
                plan, entries = self._prepare(connection, direction, target)
            for migration in plan:
                on_step(Step("started", direction, migration))
                made = not migration.transactional or journal.is_applied(entries, migration)
                duration_ms = _Move(connection, migration, direction, on_step, made=made).run()
                on_step(Step("done", direction, migration, duration_ms))
            return plan

    def _prepare(
        self, connection: Connection, direction: Direction, target: str
    ) -> tuple[list[Migration], dict[int, JournalRecord]]:
        """The plan, with nothing in its way, and where the database is; the ledger is there and the names are noted."""
        if direction == "up":
            obstacles.refuse_encoding(connection)
        journal.create(connection)
        entries = journal.read(connection)
        journal.refuse_unknown_migrations(self._migrations, entries)
        plan_for = plans.up if direction == "up" else plans.down
        plan = plan_for(self._migrations, entries, target)
        if plan:
            connection.execute(marks.names(self._migrations))
            obstacles.refuse(connection, plan, direction)
        return plan, entries


def schema_version(database_url: str) -> str | None:
    """The version that is completely installed, None before the first one.

    Raises:
        StoreUnavailableError: the database cannot be reached.
    """
    with connect(database_url) as connection:
        return journal.installed_version(discover(), journal.read(connection))


def lock_timeout(migration: Migration) -> sql.Composed:
    """The statement that bounds how long the migration may wait for a lock, in either direction."""
    return sql.SQL("SET lock_timeout = {}").format(sql.Literal(migration.lock_timeout))


class _Move:
    """One migration in one direction."""

    def __init__(
        self, connection: Connection, migration: Migration, direction: Direction, on_step: OnStep, *, made: bool
    ) -> None:
        self._connection = connection
        self._migration = migration
        self._direction = direction
        self._on_step = on_step
        if direction == "up":
            self._sql = migration.up_sql
        else:
            # A way up in one transaction that failed made nothing; what has its names is not ours.
            self._sql = migration.down_sql if made else ""

    def run(self) -> int:
        """Move, with the ledger; return the milliseconds that it took."""
        began = time.monotonic()
        try:
            self._connection.execute(lock_timeout(self._migration))
            if self._migration.transactional:
                self._in_transaction(began)
            else:
                self._in_statements(began)
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self._fail(error)
        return _milliseconds(began)

    def _in_transaction(self, began: float) -> None:
        # A rolled back way down leaves everything applied, so only the way up says that it runs.
        if self._direction == "up":
            journal.record(self._connection, self._migration, "running")

        def attempt() -> None:
            with self._connection.transaction():
                if self._direction == "up":
                    self._connection.execute(marks.reservation(self._migration))
                self._connection.execute(self._sql.encode())
                self._finish(began)

        self._retry(attempt)

    def _in_statements(self, began: float) -> None:
        # Killed in between, either direction can be run again: every statement bears repetition.
        with self._connection.transaction():
            journal.record(self._connection, self._migration, "running")
            if self._direction == "up":
                self._connection.execute(marks.reservation(self._migration))
        for statement in split_statements(self._sql):
            self._retry(partial(self._execute, statement))
        with self._connection.transaction():
            self._finish(began)

    def _execute(self, statement: str) -> None:
        index = _CONCURRENT_INDEX.match(statement)
        if index:
            _drop_invalid(self._connection, index[1])
        self._connection.execute(statement.encode())

    def _finish(self, began: float) -> None:
        if self._direction == "up":
            journal.record(self._connection, self._migration, "applied", _milliseconds(began))
        else:
            journal.remove(self._connection, self._migration)
            for release in marks.releases(self._migration):
                self._connection.execute(release)

    def _retry(self, attempt: Callable[[], None]) -> None:
        """Try until it goes through: a short lock_timeout gives way to others, the patience is ours."""
        for pause in _pauses():
            try:
                return attempt()
            except _TRANSIENT as error:
                if pause is None:
                    raise
                self._on_step(Step("retrying", self._direction, self._migration, detail=one_line(error)))
                time.sleep(pause)
        return None

    def _fail(self, error: psycopg.Error) -> None:
        if self._direction == "up" or not self._migration.transactional:
            journal.record(self._connection, self._migration, "failed")
        raise MigrationError(
            f"{self._migration.label} ({self._direction}) failed: {one_line(error)};"
            f" put that right and run migrate {self._direction} again"
        ) from error


def _pauses() -> Iterator[float | None]:
    """Growing pauses with jitter, so that two that met do not meet again; None when the patience is spent."""
    deadline = time.monotonic() + RETRY_SECONDS
    pause = FIRST_PAUSE
    while time.monotonic() < deadline:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter is no secret
        pause = min(2 * pause, LONGEST_PAUSE)
    yield None


def _drop_invalid(connection: Connection, index: str) -> None:
    """An index whose building was interrupted serves no query, and IF NOT EXISTS would keep it for good."""
    row = connection.execute(
        "SELECT FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid",
        [f"public.{index}"],
    ).fetchone()
    if row is not None:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY public.{}").format(sql.Identifier(index)))


def _milliseconds(began: float) -> int:
    return round(1000 * (time.monotonic() - began))
