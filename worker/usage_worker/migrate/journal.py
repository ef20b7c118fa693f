"""The journal of migrations in the database, and its comparison with the files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql

from usage_worker.errors import MigrationError, SchemaError
from usage_worker.migrate.files import EMPTY, version_key
from usage_worker.migrate.queries import query

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from usage_worker.migrate.files import Migration
    from usage_worker.postgres import Connection

TABLE = "usage_migrations"
JournalState = Literal["applied", "running", "failed"]


@dataclass(frozen=True)
class JournalRecord:
    """One migration as the database recorded it."""

    number: int
    name: str
    version: str
    sha256: str
    state: JournalState
    started_at: datetime
    duration_ms: int | None


@dataclass(frozen=True)
class MigrationStatus:
    """One migration with its state in the database."""

    number: int
    name: str
    version: str
    state: Literal["applied", "running", "failed", "pending", "edited", "unknown"]
    started_at: datetime | None
    duration_ms: int | None


@dataclass(frozen=True)
class SchemaStatus:
    """State of a database; `version` is the highest complete version, None before the first one."""

    version: str | None
    latest: str
    migrations: tuple[MigrationStatus, ...]

    @property
    def partial_version(self) -> str | None:
        """The version that is installed in part: a run stopped, or this code adds migrations to the version."""
        complete = version_key(self.version or EMPTY)
        above = (step for step in self.migrations if version_key(step.version) > complete and step.state != "pending")
        return next((step.version for step in above), None)

    def __str__(self) -> str:
        return (self.version or "empty") + (f" and a part of {self.partial_version}" if self.partial_version else "")


def create(connection: Connection) -> None:
    connection.execute(query("create_journal"))


def read(connection: Connection) -> dict[int, JournalRecord]:
    """Read the records by number; none if the journal does not exist."""
    exists = connection.execute(query("journal_exists")).fetchone()
    if not (exists and exists[0]):
        return {}
    rows = connection.execute(query("read_journal"))
    return {row[0]: JournalRecord(*row) for row in rows}


def read_if_allowed(connection: Connection) -> dict[int, JournalRecord]:
    """Like `read`, but none if the role may not read the journal, which an obstacle names."""
    with suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
        return read(connection)
    return {}


def read_installed(connection: Connection, migrations: Sequence[Migration]) -> dict[int, JournalRecord]:
    """Read the records of a database that these files describe.

    Raises:
        SchemaError: nothing is installed, or the database is newer than this code.
        MigrationError: a file was edited after it had been applied.
    """
    records = read(connection)
    if not records:
        adoptable = connection.execute(query("known_table")).fetchone()
        if adoptable:
            raise SchemaError("the schema has no journal", "run `usage-worker migrate adopt`")
        raise SchemaError("nothing is installed", "run `usage-worker migrate up`")
    refuse_unknown_migrations(migrations, records)
    return records


def record(connection: Connection, migration: Migration, state: JournalState, duration_ms: int | None = None) -> None:
    """Set the state of a migration; state `running` resets its start time."""
    connection.execute(recording(migration, state, duration_ms))


def remove(connection: Connection, migration: Migration) -> None:
    connection.execute(removal(migration))


def recording(migration: Migration, state: JournalState, duration_ms: int | None = None) -> sql.Composed:
    """Build the statement of `record` with its values, since a script has no parameters."""
    values = (migration.number, migration.name, migration.version, migration.sha256, state, duration_ms)
    return sql.SQL(query("record_migration")).format(*map(sql.Literal, values))


def removal(migration: Migration) -> sql.Composed:
    """Build the statement of `remove` with its values."""
    return sql.SQL(query("remove_migration")).format(sql.Literal(migration.number))


def installed_version(migrations: Sequence[Migration], records: dict[int, JournalRecord]) -> str | None:
    """Return the highest version of which every migration is applied."""
    known = {migration.number for migration in migrations}
    newer = [record.version for record in records.values() if record.number not in known and record.state == "applied"]
    if newer:
        return max(newer, key=version_key)
    version: str | None = None
    for candidate, steps in groupby(migrations, key=lambda migration: migration.version):
        if not all(is_applied(records, step) for step in steps):
            break
        version = candidate
    return version


def is_applied(records: dict[int, JournalRecord], migration: Migration) -> bool:
    record = records.get(migration.number)
    return record is not None and record.state == "applied"


def applied(migrations: Sequence[Migration], records: dict[int, JournalRecord]) -> list[Migration]:
    """Choose the migrations that are applied."""
    return [migration for migration in migrations if is_applied(records, migration)]


def refuse_unknown_migrations(migrations: Sequence[Migration], records: dict[int, JournalRecord]) -> None:
    """Refuse a database that these files do not describe.

    Raises:
        SchemaError: the database is newer than this code.
        MigrationError: a file was edited after it had been applied.
    """
    by_number = {migration.number: migration for migration in migrations}
    for record in records.values():
        migration = by_number.get(record.number)
        if migration is None:
            raise SchemaError(
                f"the database has migration {record.number:03d}_{record.name} ({record.version}),"
                f" this code ends at {migrations[-1].version}; upgrade usage-worker"
            )
        if _is_edited(migration, record):
            raise MigrationError(
                f"{migration.up.name} was edited after it had been applied;"
                " restore it and put the change into a new migration"
            )


def status(migrations: Sequence[Migration], records: dict[int, JournalRecord]) -> SchemaStatus:
    """List every migration of the files and of the journal, with its state."""
    known = [_status_of(migration, records.get(migration.number)) for migration in migrations]
    numbers = {migration.number for migration in migrations}
    unknown = [
        MigrationStatus(record.number, record.name, record.version, "unknown", record.started_at, record.duration_ms)
        for record in records.values()
        if record.number not in numbers
    ]
    return SchemaStatus(installed_version(migrations, records), migrations[-1].version, (*known, *unknown))


def _status_of(migration: Migration, record: JournalRecord | None) -> MigrationStatus:
    names = (migration.number, migration.name, migration.version)
    if record is None:
        return MigrationStatus(*names, "pending", None, None)
    state = "edited" if _is_edited(migration, record) else record.state
    return MigrationStatus(*names, state, record.started_at, record.duration_ms)


def _is_edited(migration: Migration, record: JournalRecord) -> bool:
    """Tell whether an applied file was changed; a migration that is not applied may still be corrected."""
    return record.state == "applied" and record.sha256 != migration.sha256
