"""Move a database from one schema version to another, so that a kill at any moment costs only time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from usage_worker.errors import MigrationError
from usage_worker.migrate import journal, marks, obstacles, plans
from usage_worker.migrate.connection import WORK_NAME, connect, exclusive
from usage_worker.migrate.files import EMPTY, discover
from usage_worker.migrate.move import Move, Step
from usage_worker.migrate.verify import deviations, unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.journal import JournalRecord, SchemaStatus
    from usage_worker.migrate.marks import Kept
    from usage_worker.migrate.move import OnStep
    from usage_worker.migrate.obstacles import Obstacle
    from usage_worker.migrate.plans import Direction
    from usage_worker.migrate.verify import Deviation
    from usage_worker.postgres import Connection

    _Plan = tuple[list[Migration], dict[int, JournalRecord]]

_SET_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '1s'"


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
            ObstacleError: names everything that `check` lists; nothing was changed.
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

    def check(self, to: str | None = None) -> list[Obstacle]:
        """List every obstacle that `up` to a version would name; changes nothing.

        Raises:
            MigrationError, SchemaError, StoreUnavailableError: as `up` would.
        """
        target = to or self._migrations[-1].version
        plans.check_known(self._migrations, target)
        with connect(self._url) as connection, connection.transaction(force_rollback=True):
            return self._examine(connection, "up", target)[1]

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
            return marks.kept(connection, marks.without_adopted(connection, plan)) if plan else None

    def status(self) -> SchemaStatus:
        """Read the state of the database; changes nothing.

        Raises:
            MigrationError: PostgreSQL refused to show the journal, or another session holds its lock for a second.
            SettingsError: the URL cannot be read.
            StoreUnavailableError: the database cannot be reached.
        """
        with connect(self._url) as connection, _brief_lock_wait(connection):
            return journal.status(self._migrations, journal.read(connection))

    def verify(self) -> list[Deviation]:
        """List where the database differs from what its applied migrations have created.

        Raises:
            MigrationError: a file was edited after it had been applied, PostgreSQL refused to show something, or
                another session holds the lock of the journal, or of a table that a view reads, for a second.
            SchemaError: nothing is installed, or the database is newer than this code.
            SettingsError: the URL cannot be read.
            StoreUnavailableError: the database cannot be reached.
        """
        with connect(self._url) as connection, _brief_lock_wait(connection):
            records = journal.read_installed(connection, self._migrations)
            applied = journal.applied(self._migrations, records)
            return unfinished(records.values()) + deviations(connection, applied)

    def _run(self, direction: Direction, target: str, wait: bool, on_step: OnStep | None) -> list[Migration]:
        notify = on_step or (lambda _: None)
        with (
            exclusive(self._url, wait=wait, waiting=lambda: notify(Step("waiting", direction))),
            connect(self._url, WORK_NAME) as connection,
        ):
            # In a transaction, so that a refusal leaves no journal behind.
            with connection.transaction():
                plan, records = self._prepare(connection, direction, target)
            adopted = marks.adopted(connection) if direction == "down" and plan else set()
            for migration in plan:
                notify(Step("started", direction, migration))
                has_objects = not migration.transactional or journal.is_applied(records, migration)
                move = Move(connection, migration, direction, notify, has_objects=has_objects)
                if migration.number in adopted:
                    move.leave()
                duration_ms = move.run()
                notify(Step("done", direction, migration, duration_ms))
            return plan

    def _prepare(self, connection: Connection, direction: Direction, target: str) -> _Plan:
        """Create the journal, store the names and refuse obstacles."""
        plan, found = self._examine(connection, direction, target)
        obstacles.refuse(found)
        return plan

    def _examine(self, connection: Connection, direction: Direction, target: str) -> tuple[_Plan, list[Obstacle]]:
        """Plan the steps and list their obstacles."""
        records = journal.read_if_allowed(connection)
        journal.refuse_unknown_migrations(self._migrations, records)
        steps = (plans.up if direction == "up" else plans.down)(self._migrations, records, target)
        found = obstacles.requirements(connection, steps) if steps and direction == "up" else []
        try:
            with connection.transaction():
                journal.create(connection)
                if steps:
                    connection.execute(marks.names(self._migrations))
                    ours = steps if direction == "up" else marks.without_adopted(connection, steps)
                    found += obstacles.taken(connection, ours, direction)
        except psycopg.errors.InsufficientPrivilege:
            # `requirements` has named the missing right.
            if not found:
                raise
        return (steps, records), found


def schema_version(database_url: str, *, pooled: bool = False) -> str | None:
    """Return the version that is completely installed, None before the first one.

    Raises like `Runner.status`.
    """
    with connect(database_url, pooled=pooled) as connection, _brief_lock_wait(connection):
        return journal.installed_version(discover(), journal.read(connection))


@contextmanager
def _brief_lock_wait(connection: Connection) -> Iterator[None]:
    """Run the block in a transaction that waits at most a second for a lock: a command that only reads must not hang.

    Raises:
        MigrationError: another session holds the lock for longer.
    """
    try:
        with connection.transaction():
            connection.execute(_SET_LOCK_TIMEOUT)
            yield
    except psycopg.errors.LockNotAvailable as error:
        message = f"another session holds a lock on {journal.TABLE} or a table of ours"
        raise MigrationError(message, "try again when it has ended") from error
