"""The ledger of migrations in the database, and what it says against the files."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from psycopg import sql

from usage_worker.errors import MigrationError, SchemaError
from usage_worker.migrate.files import EMPTY, version_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from usage_worker.migrate.files import Migration
    from usage_worker.postgres import Connection

JournalState = Literal["applied", "running", "failed"]

# The ledger, and the names that migrations have marked as theirs. The platform may grant new tables to its roles by
# default privileges; these are nobody's business.
CREATE = """
DO $ledger$
DECLARE
    ours text;
    outsider text;
BEGIN
    CREATE TABLE IF NOT EXISTS public.usage_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        version text NOT NULL,
        sha256 text NOT NULL,
        state text NOT NULL CHECK (state IN ('applied', 'running', 'failed')),
        started_at timestamptz NOT NULL DEFAULT now(),
        duration_ms integer
    );
    CREATE TABLE IF NOT EXISTS public.usage_migration_objects (
        kind text NOT NULL,
        name text NOT NULL,
        number integer NOT NULL,
        PRIMARY KEY (kind, name)
    );
    FOREACH ours IN ARRAY ARRAY['public.usage_migrations', 'public.usage_migration_objects'] LOOP
        CONTINUE WHEN (SELECT relrowsecurity FROM pg_class WHERE oid = ours::regclass);
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', ours);
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', ours);
        FOR outsider IN
            SELECT rolname FROM pg_roles
            WHERE rolname IN ('anon', 'authenticated', 'service_role') AND has_table_privilege(oid, ours, 'SELECT')
        LOOP
            EXECUTE format('REVOKE ALL ON %s FROM %I', ours, outsider);
        END LOOP;
    END LOOP;
END
$ledger$
"""
_RECORD = """
INSERT INTO public.usage_migrations AS entry (number, name, version, sha256, state, duration_ms)
VALUES ({}, {}, {}, {}, {}, {})
ON CONFLICT (number) DO UPDATE SET
    name = excluded.name,
    version = excluded.version,
    sha256 = excluded.sha256,
    state = excluded.state,
    duration_ms = excluded.duration_ms,
    started_at = CASE excluded.state WHEN 'running' THEN excluded.started_at ELSE entry.started_at END
"""


@dataclass(frozen=True)
class JournalRecord:
    """What the database remembers of one migration."""

    number: int
    name: str
    version: str
    sha256: str
    state: JournalState
    started_at: datetime
    duration_ms: int | None


@dataclass(frozen=True)
class MigrationStatus:
    """One migration as `status` shows it."""

    number: int
    name: str
    version: str
    state: Literal["applied", "running", "failed", "pending", "edited", "unknown"]
    started_at: datetime | None
    duration_ms: int | None


@dataclass(frozen=True)
class SchemaStatus:
    """Where a database is; `version` is the highest that is complete, None before the first one."""

    version: str | None
    latest: str
    migrations: tuple[MigrationStatus, ...]

    @property
    def begun(self) -> str | None:
        """The version of which a part is there: a run stopped, or this code brings more of it than an older one."""
        complete = version_key(self.version or EMPTY)
        above = (step for step in self.migrations if version_key(step.version) > complete and step.state != "pending")
        return next((step.version for step in above), None)

    def __str__(self) -> str:
        return (self.version or "empty") + (f" and a part of {self.begun}" if self.begun else "")


def create(connection: Connection) -> None:
    connection.execute(CREATE)


def read(connection: Connection) -> dict[int, JournalRecord]:
    """The entries by number; none where the ledger does not exist."""
    exists = connection.execute("SELECT to_regclass('public.usage_migrations') IS NOT NULL").fetchone()
    if not (exists and exists[0]):
        return {}
    rows = connection.execute(
        "SELECT number, name, version, sha256, state, started_at, duration_ms FROM public.usage_migrations"
        " ORDER BY number"
    )
    return {row[0]: JournalRecord(*row) for row in rows}


def record(connection: Connection, migration: Migration, state: JournalState, duration_ms: int | None = None) -> None:
    """Set the state; an entry that begins to run begins anew."""
    connection.execute(recording(migration, state, duration_ms))


def remove(connection: Connection, migration: Migration) -> None:
    connection.execute(removal(migration))


def recording(migration: Migration, state: JournalState, duration_ms: int | None = None) -> sql.Composed:
    """The statement of `record`, complete, since a script has no parameters."""
    values = (migration.number, migration.name, migration.version, migration.sha256, state, duration_ms)
    return sql.SQL(_RECORD).format(*map(sql.Literal, values))


def removal(migration: Migration) -> sql.Composed:
    """The statement of `remove`, complete."""
    return sql.SQL("DELETE FROM public.usage_migrations WHERE number = {}").format(sql.Literal(migration.number))


def installed_version(migrations: Sequence[Migration], entries: dict[int, JournalRecord]) -> str | None:
    """The highest version of which every migration is applied."""
    known = {migration.number for migration in migrations}
    newer = [entry.version for entry in entries.values() if entry.number not in known and entry.state == "applied"]
    if newer:
        return max(newer, key=version_key)
    version: str | None = None
    for candidate, steps in groupby(migrations, key=lambda migration: migration.version):
        if not all(is_applied(entries, step) for step in steps):
            break
        version = candidate
    return version


def is_applied(entries: dict[int, JournalRecord], migration: Migration) -> bool:
    entry = entries.get(migration.number)
    return entry is not None and entry.state == "applied"


def refuse_unknown_migrations(migrations: Sequence[Migration], entries: dict[int, JournalRecord]) -> None:
    """Refuse a database that these files do not describe.

    Raises:
        SchemaError: it is newer than this code.
        MigrationError: a file was edited after it had been applied.
    """
    by_number = {migration.number: migration for migration in migrations}
    for entry in entries.values():
        migration = by_number.get(entry.number)
        if migration is None:
            raise SchemaError(
                f"the database has migration {entry.number:03d}_{entry.name} ({entry.version}),"
                f" this code ends at {migrations[-1].version}; upgrade usage-worker"
            )
        if _is_edited(migration, entry):
            raise MigrationError(
                f"{migration.up.name} was edited after it had been applied;"
                " restore it and put the change into a new migration"
            )


def status(migrations: Sequence[Migration], entries: dict[int, JournalRecord]) -> SchemaStatus:
    """Every migration of the files and of the ledger, with its state."""
    known = [_status_of(migration, entries.get(migration.number)) for migration in migrations]
    numbers = {migration.number for migration in migrations}
    unknown = [
        MigrationStatus(entry.number, entry.name, entry.version, "unknown", entry.started_at, entry.duration_ms)
        for entry in entries.values()
        if entry.number not in numbers
    ]
    return SchemaStatus(installed_version(migrations, entries), migrations[-1].version, (*known, *unknown))


def _status_of(migration: Migration, entry: JournalRecord | None) -> MigrationStatus:
    names = (migration.number, migration.name, migration.version)
    if entry is None:
        return MigrationStatus(*names, "pending", None, None)
    state = "edited" if _is_edited(migration, entry) else entry.state
    return MigrationStatus(*names, state, entry.started_at, entry.duration_ms)


def _is_edited(migration: Migration, entry: JournalRecord) -> bool:
    """A step that was not finished may still be corrected."""
    return entry.state == "applied" and entry.sha256 != migration.sha256
