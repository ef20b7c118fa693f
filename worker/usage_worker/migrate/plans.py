"""Choose the migrations that lead from the state of a database to a version, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from usage_worker.errors import MigrationError, SchemaError
from usage_worker.migrate import journal
from usage_worker.migrate.files import version_key

if TYPE_CHECKING:
    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.journal import JournalRecord

Direction = Literal["up", "down"]


def check_known(migrations: tuple[Migration, ...], version: str) -> None:
    """Refuse a version that no migration leads to.

    Raises:
        MigrationError: the version is unknown.
    """
    known = sorted({migration.version for migration in migrations}, key=version_key)
    if version not in known:
        raise MigrationError(f"there is no version {version}; known are {', '.join(known)}")


def up_to(migrations: tuple[Migration, ...], version: str) -> list[Migration]:
    """Return the migrations of a version and of those before it."""
    return [migration for migration in migrations if version_key(migration.version) <= version_key(version)]


def up(migrations: tuple[Migration, ...], records: dict[int, JournalRecord], target: str) -> list[Migration]:
    """Choose the migrations that are missing up to a version, in order.

    Raises:
        SchemaError: the database is at a higher version.
    """
    above = [record.version for record in records.values() if version_key(record.version) > version_key(target)]
    if above:
        raise SchemaError(
            f"the database is at {max(above, key=version_key)}; to go back run migrate down --to {target}"
        )
    return [migration for migration in up_to(migrations, target) if not journal.is_applied(records, migration)]


def down(migrations: tuple[Migration, ...], records: dict[int, JournalRecord], target: str) -> list[Migration]:
    """Choose the migrations above a version, the last one first.

    Raises:
        MigrationError: the database is below the version.
    """
    missing = [migration.label for migration in up_to(migrations, target) if not journal.is_applied(records, migration)]
    if missing:
        raise MigrationError(
            f"the database is below {target} ({missing[0]} is not applied); run migrate up --to {target}"
        )
    return [
        migration
        for migration in reversed(migrations)
        if version_key(migration.version) > version_key(target) and migration.number in records
    ]
