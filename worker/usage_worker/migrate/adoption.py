"""Adopt a database that the runner did not make: the history's own SQL, or our files executed by psql.

The columns tell its version. One transaction writes the journal and gives every object its definition, by the code that
repairs; indexes are built afterwards. A rollback leaves the adopted tables and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from usage_worker.errors import MigrationError, ObstacleError
from usage_worker.migrate import journal, marks, obstacles, plans
from usage_worker.migrate.completion import Completion
from usage_worker.migrate.connection import WORK_NAME, connect, exclusive
from usage_worker.migrate.definitions import column_parts, is_lossless
from usage_worker.migrate.files import discover, version_key
from usage_worker.migrate.queries import query
from usage_worker.migrate.repair import Repaired, deviation, finish, in_transaction
from usage_worker.migrate.verify import catalogue, differences, expectations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.verify import Deviation, Key
    from usage_worker.postgres import Connection

# The last version that the history describes. Later tables are ours in any case, since only our files make them.
HISTORY = "3.0.0"
# Tables that a platform may bring; the migrations create those that are missing and alter none.
PARENTS = frozenset({"agents", "user_profiles", "user_role_assignments"})
TABLE = "user_agents"


@dataclass(frozen=True)
class Adoptable:
    """The version that a database has, and what differs from it."""

    version: str
    differs: list[Deviation]


def examine(database_url: str, version: str | None = None, directory: Path | None = None) -> Adoptable:
    """Recognize the version of a database and list what `adopt` would complete; changes nothing.

    Args:
        database_url: the database.
        version: the version that it is expected to have, by default the highest one whose columns exist.
        directory: the migrations, by default those of the installation.

    Raises:
        MigrationError: there is nothing to adopt, or the version is unknown.
        ObstacleError: columns are missing or have another type, or another obstacle exists; names them.
        SchemaError: the database is newer than this code.
        SettingsError: the URL cannot be read.
        StoreUnavailableError: the database cannot be reached.
    """
    migrations = discover(directory)
    with connect(database_url) as connection, connection.transaction(force_rollback=True):
        recognized, steps = _recognize(connection, migrations, version)
        return Adoptable(recognized, [deviation(it, {}) for it in differences(connection, steps)])


def adopt(
    database_url: str,
    version: str | None = None,
    directory: Path | None = None,
    *,
    wait: bool = True,
    waiting: Callable[[], None] = lambda: None,
    retrying: Callable[[str], None] = lambda _: None,
) -> Repaired:
    """Remove the differences that `examine` lists, and record the version in the journal.

    After a kill the database is as it was, or lacks only indexes and comments, which `repair` makes.

    Args:
        database_url: the database.
        version: as in `examine`.
        directory: as in `examine`.
        wait: wait for another run to end instead of failing.
        waiting: called once if another run holds the lock.
        retrying: called with the reason before each new attempt at a lock.

    Raises:
        MigrationError: as `examine`; or another run holds the lock and `wait` is false, or a lock could not be had.
        ObstacleError: as `examine`; or an object cannot get its definition. Nothing was changed.
        SchemaError, SettingsError, StoreUnavailableError: as `examine`.
    """
    migrations = discover(directory)
    with exclusive(database_url, wait=wait, waiting=waiting), connect(database_url, WORK_NAME) as connection:

        def complete() -> Completion:
            _, steps = _recognize(connection, migrations, version)
            _record(connection, migrations, steps)
            completion = Completion(connection, steps, adopting=True)
            completion.run()
            _refuse_incomplete(completion)
            return completion

        return finish(connection, in_transaction(connection, complete, retrying), retrying)


def _recognize(
    connection: Connection, migrations: tuple[Migration, ...], version: str | None
) -> tuple[str, list[Migration]]:
    """Return the version of the database and the migrations up to it. Creates the journal. Raises like `examine`."""
    records = journal.read(connection)
    journal.refuse_unknown_migrations(migrations, records)
    if version is not None:
        plans.check_known(migrations, version)
    obstacles.refuse(obstacles.requirements(connection, migrations[:1]))
    journal.create(connection)
    columns = {fact.object: fact.definition for fact in catalogue(connection) if fact.kind == "column"}
    expected = {
        candidate: _columns(expectations(connection, plans.up_to(migrations, candidate)))
        for candidate in dict.fromkeys(migration.version for migration in migrations)
    }
    recognized = _version(columns, expected, version)
    _refuse_types(columns, expected[recognized])
    steps = plans.up_to(migrations, recognized)
    missing = [migration for migration in steps if not journal.is_applied(records, migration)]
    if not missing:
        raise MigrationError(
            f"the journal of the database is at {recognized} already; run usage-worker migrate repair or migrate up"
        )
    obstacles.refuse(obstacles.requirements(connection, missing))
    return recognized, steps


def _version(columns: dict[str, str], expected: dict[str, dict[str, str]], wanted: str | None) -> str:
    """Choose the highest version whose columns exist.

    Raises:
        MigrationError: there is no table to adopt.
        ObstacleError: columns are missing.
    """
    known = list(expected)
    if not any(name.partition(".")[0] in PARENTS | {TABLE} for name in columns):
        raise MigrationError("there is nothing to adopt; run usage-worker migrate up")
    missing = {candidate: sorted(expected[candidate].keys() - columns.keys()) for candidate in known}
    fitting = [candidate for candidate in known if not missing[candidate]]
    # Where user_agents exists, 1.0.0 alone does not describe the database.
    if any(name.startswith(f"{TABLE}.") for name in columns) and len(fitting) == 1:
        raise ObstacleError(_missing_columns(known[1], missing[known[1]]))
    best = fitting[-1]
    after = known[len(fitting)] if len(fitting) < len(known) else None
    if wanted is not None:
        if wanted not in fitting:
            raise ObstacleError(_missing_columns(wanted, missing[wanted]))
        if wanted != best:
            raise ObstacleError(f"the database has the columns of {best}, not of {wanted}, nothing was changed")
    elif after and columns.keys() & (expected[after].keys() - expected[best].keys()):
        raise ObstacleError(_missing_columns(after, missing[after], f", or adopt it with --version {best}"))
    return best


def _missing_columns(version: str, columns: list[str], otherwise: str = "") -> str:
    return f"columns of {version} are missing: {', '.join(columns)}; add them{otherwise}, nothing was changed"


def _columns(expected: dict[Key, str | None]) -> dict[str, str]:
    """Choose the definitions of columns, without those of tables that a platform may bring."""
    return {
        name: definition
        for (kind, name), definition in expected.items()
        if kind == "column" and definition is not None and name.partition(".")[0] not in PARENTS
    }


def _refuse_types(columns: dict[str, str], expected: dict[str, str]) -> None:
    """Refuse columns whose type cannot become ours without losing values.

    Raises:
        ObstacleError: names each column and both types.
    """
    wrong = []
    for name, definition in expected.items():
        found, wanted = column_parts(columns[name])[0], column_parts(definition)[0]
        if found != wanted and not is_lossless(found, wanted):
            wrong.append(f"column {name} is {found}, expected {wanted}")
    if wrong:
        raise ObstacleError(f"{', '.join(wrong)}; change the types, nothing was changed")


def _record(connection: Connection, migrations: tuple[Migration, ...], steps: list[Migration]) -> None:
    """Write journal and marks, and create missing tables of the platform."""
    connection.execute(marks.names(migrations))
    records = journal.read(connection)
    for migration in steps:
        if journal.is_applied(records, migration):
            continue
        journal.record(connection, migration, "applied", 0)
        if migration is migrations[0]:
            # It creates what is missing and changes nothing that exists.
            connection.execute(marks.reservation(migration))
            connection.execute(migration.up_sql.encode())
        else:
            connection.execute(_adoption(migration))


def _adoption(migration: Migration) -> sql.Composed:
    """Build the statement that marks the objects of a migration, as adopted where a rollback must leave them."""
    return sql.SQL(query("adopt_names")).format(
        number=sql.Literal(migration.number),
        keeping=sql.Literal(version_key(migration.version) <= version_key(HISTORY)),
        free=sql.SQL(query("is_free")),
    )


def _refuse_incomplete(completion: Completion) -> None:
    """Refuse a database in which an object of ours still differs, other than an index, which is built afterwards.

    Raises:
        ObstacleError: names each object and why it differs.
    """
    left = [deviation(it, completion.reasons) for it in completion.left if it.named and it.kind != "index"]
    if left:
        named = ", ".join(f"{it.kind} {it.object} ({it.problem})" for it in left)
        raise ObstacleError(f"{named}; put that right and run migrate adopt again, nothing was changed")
