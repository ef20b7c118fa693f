"""Move a database from one schema version to another, so that a kill at any moment costs only time."""

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
from usage_worker.migrate.connection import WORK_NAME, connect, exclusive, lock_timeout, one_line
from usage_worker.migrate.files import EMPTY, discover, split_statements
from usage_worker.migrate.verify import Deviation, deviations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.journal import JournalRecord, SchemaStatus
    from usage_worker.migrate.marks import Kept
    from usage_worker.migrate.plans import Direction
    from usage_worker.postgres import Connection

RETRY_SECONDS = 120.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

# Lost races, which succeed when they are retried.
_TRANSIENT = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
_CONCURRENT_INDEX = re.compile(
    r"""CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"?(\w+)"?\s""", re.IGNORECASE
)


@dataclass(frozen=True)
class Step:
    """Progress of a run; `migration` is None while the run waits for another one to end."""

    event: Literal["waiting", "started", "retrying", "done"]
    direction: Direction
    migration: Migration | None = None
    duration_ms: int | None = None
    detail: str = ""


OnStep = Callable[[Step], None]


class Runner:
    """Migrates one database. Every method opens and closes its own connections."""

    def __init__(self, database_url: str, directory: Path | None = None) -> None:
        self._url = database_url
        self._migrations = discover(directory)

    def up(self, to: str | None = None, *, wait: bool = True, on_step: OnStep | None = None) -> list[Migration]:
        """Apply the missing migrations up to a version.

        Args:
            to: the version, by default the latest.
            wait: wait for another run to end instead of failing.
            on_step: called with each step of the progress.

        Returns:
            The migrations that were applied.

        Raises:
            MigrationError: a step failed, a file was edited, or another run holds the lock and `wait` is false.
            ObstacleError: somebody else's object has a name that a step needs, a table has too few column numbers
                left, or the encoding of the database is not UTF8; nothing was changed.
            SchemaError: the database is newer than this code, or than `to`.
            SettingsError: the URL cannot be read.
            StoreUnavailableError: the database cannot be reached.
        """
        target = to or self._migrations[-1].version
        plans.check_known(self._migrations, target)
        return self._run("up", target, wait, on_step)

    def down(self, to: str, *, wait: bool = True, on_step: OnStep | None = None) -> list[Migration]:
        """Roll back to a version, or with "0.0.0" everything; like `up` otherwise."""
        if to != EMPTY:
            plans.check_known(self._migrations, to)
        return self._run("down", to, wait, on_step)

    def kept_by_down(self, to: str) -> list[Kept] | None:
        """List what a rollback to the version would keep aside, or None if there is nothing to roll back.

        Changes nothing.

        Raises:
            MigrationError, ObstacleError, SchemaError, SettingsError, StoreUnavailableError: as `down` would.
        """
        if to != EMPTY:
            plans.check_known(self._migrations, to)
        with connect(self._url) as connection, connection.transaction(force_rollback=True):
            plan, _ = self._prepare(connection, "down", to)
            return marks.kept(connection, plan) if plan else None

    def status(self) -> SchemaStatus:
        """Read the state of the database; changes nothing.

        Raises:
            MigrationError: PostgreSQL refused to show the journal.
            SettingsError: the URL cannot be read.
            StoreUnavailableError: the database cannot be reached.
        """
        with connect(self._url) as connection:
            return journal.status(self._migrations, journal.read(connection))

    def verify(self) -> list[Deviation]:
        """List where the database differs from what its applied migrations have created.

        Raises:
            MigrationError: a file was edited after it had been applied, or PostgreSQL refused to show something.
            SchemaError: nothing is installed, or the database is newer than this code.
            SettingsError: the URL cannot be read.
            StoreUnavailableError: the database cannot be reached.
        """
        with connect(self._url) as connection:
            records = journal.read(connection)
            if not records:
                raise SchemaError("nothing is installed; run usage-worker migrate up")
            journal.refuse_unknown_migrations(self._migrations, records)
            applied = [step for step in self._migrations if journal.is_applied(records, step)]
            unfinished = [
                Deviation("migration", f"{record.number:03d}_{record.name}", f"is {record.state}; run it again")
                for record in records.values()
                if record.state != "applied"
            ]
            return unfinished + deviations(connection, applied)

    def _run(self, direction: Direction, target: str, wait: bool, on_step: OnStep | None) -> list[Migration]:
        notify = on_step or (lambda _: None)
        with (
            exclusive(self._url, wait=wait, waiting=lambda: notify(Step("waiting", direction))),
            connect(self._url, WORK_NAME) as connection,
        ):
            # A refusal rolls back.
            with connection.transaction():
                plan, records = self._prepare(connection, direction, target)
            for migration in plan:
                notify(Step("started", direction, migration))
                has_objects = not migration.transactional or journal.is_applied(records, migration)
                duration_ms = _Move(connection, migration, direction, notify, has_objects=has_objects).run()
                notify(Step("done", direction, migration, duration_ms))
            return plan

    def _prepare(
        self, connection: Connection, direction: Direction, target: str
    ) -> tuple[list[Migration], dict[int, JournalRecord]]:
        """Create the journal, store the names, check for obstacles; return the plan and the records of the journal."""
        if direction == "up":
            obstacles.refuse_encoding(connection)
        journal.create(connection)
        records = journal.read(connection)
        journal.refuse_unknown_migrations(self._migrations, records)
        plan_for = plans.up if direction == "up" else plans.down
        plan = plan_for(self._migrations, records, target)
        if plan:
            connection.execute(marks.names(self._migrations))
            obstacles.refuse(connection, plan, direction)
        return plan, records


def schema_version(database_url: str) -> str | None:
    """Return the version that is completely installed, None before the first one. Raises like `Runner.status`."""
    with connect(database_url) as connection:
        return journal.installed_version(discover(), journal.read(connection))


class _Move:
    """One migration in one direction."""

    def __init__(
        self, connection: Connection, migration: Migration, direction: Direction, on_step: OnStep, *, has_objects: bool
    ) -> None:
        self._connection = connection
        self._migration = migration
        self._direction = direction
        self._on_step = on_step
        if direction == "up":
            self._sql = migration.up_sql
        else:
            # An upgrade in one transaction that failed has created nothing; objects with its names are not ours.
            self._sql = migration.down_sql if has_objects else ""

    def run(self) -> int:
        """Move and update the journal; return the duration in milliseconds."""
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
        # A rollback that fails here leaves the migration applied, so only an upgrade is recorded as running.
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
        # After a kill either direction can be run again, because every statement can be repeated.
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
        """Retry lost races for up to `RETRY_SECONDS`: a short lock_timeout lets clients go first."""
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
    """Yield growing pauses with jitter, so that two sessions do not collide again; None after `RETRY_SECONDS`."""
    deadline = time.monotonic() + RETRY_SECONDS
    pause = FIRST_PAUSE
    while time.monotonic() < deadline:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter needs no secret
        pause = min(2 * pause, LONGEST_PAUSE)
    yield None


def _drop_invalid(connection: Connection, index: str) -> None:
    """Drop an index whose build was interrupted: no query uses it, and IF NOT EXISTS would keep it."""
    row = connection.execute(
        "SELECT FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid",
        [f"public.{index}"],
    ).fetchone()
    if row is not None:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY public.{}").format(sql.Identifier(index)))


def _milliseconds(began: float) -> int:
    return round(1000 * (time.monotonic() - began))
