"""Adopt a database that the runner did not make: the history's own SQL, or our files executed by psql.

The columns tell its version, and behind the history's last version the objects tell which of our files were run. One
transaction writes the journal and gives every object its definition, by the code that repairs; indexes are built
afterwards. A rollback leaves the adopted tables and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from usage_worker.errors import MigrationError, ObstacleError
from usage_worker.migrate import journal, marks, obstacles, plans
from usage_worker.migrate.completion import Completion
from usage_worker.migrate.connection import WORK_NAME, connect, exclusive
from usage_worker.migrate.definitions import column_parts, is_lossless, type_change
from usage_worker.migrate.files import discover, version_key
from usage_worker.migrate.obstacles import Obstacle
from usage_worker.migrate.queries import query
from usage_worker.migrate.repair import Repaired, deviation, finish, in_transaction
from usage_worker.migrate.verify import Deviation, catalogue, differences, expectations, unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.verify import Difference, Key
    from usage_worker.postgres import Connection

# The last version that the history describes. Later tables are ours in any case, since only our files make them.
HISTORY = "3.0.0"
# Tables that a platform may bring; the migrations create those that are missing and alter none.
PARENTS = frozenset({"agents", "user_profiles", "user_role_assignments"})
TABLE = "user_agents"


@dataclass(frozen=True)
class Adoptable:
    """The version that a database has completely, the last of our files that was run, and what differs."""

    version: str
    last: Migration
    differs: list[Deviation]

    def __str__(self) -> str:
        part = f" and {self.last.version} up to {self.last.label}" if self.last.version != self.version else ""
        return self.version + part


@dataclass(frozen=True)
class _Recognized:
    """The complete version; migrations whose objects exist, that the journal lacks, and that `up` is to repeat."""

    version: str
    steps: list[Migration]
    missing: list[Migration]
    repeated: list[Migration]


def examine(database_url: str, version: str | None = None) -> Adoptable:
    """Recognize the version of a database and list what `adopt` would complete; changes nothing.

    Args:
        database_url: the database.
        version: the version that it is expected to have, by default the highest one whose columns exist.

    Raises:
        MigrationError: there is nothing to adopt, or the version is unknown.
        ObstacleError: columns are missing or have another type, or another obstacle exists; names them.
        SchemaError: the database is newer than this code.
        SettingsError: the URL cannot be read.
        StoreUnavailableError: the database cannot be reached.
    """
    migrations = discover()
    with connect(database_url) as connection, connection.transaction(force_rollback=True):
        recognized = _recognize(connection, migrations, version)
        found = differences(connection, recognized.steps)
        partly = _partly_run(connection, recognized, found)
        return Adoptable(recognized.version, recognized.steps[-1], partly + [deviation(it, {}) for it in found])


def adopt(
    database_url: str,
    version: str | None = None,
    *,
    wait: bool = True,
    waiting: Callable[[], None] = lambda: None,
    retrying: Callable[[str], None] = lambda _: None,
) -> Repaired:
    """Remove the differences that `examine` lists, and record the migrations in the journal.

    After a kill the database is as it was, or lacks only indexes and comments, which `repair` makes. A migration that
    changes rows and may have stopped inside is left as unfinished: the next `up` repeats it.

    Args:
        database_url: the database.
        version: as in `examine`.
        wait: wait for another run to end instead of failing.
        waiting: called once if another run holds the lock.
        retrying: called with the reason before each new attempt at a lock.

    Raises:
        MigrationError: as `examine`; or another run holds the lock and `wait` is false, or a lock could not be had.
        ObstacleError: as `examine`; or an object cannot get its definition. Nothing was changed.
        SchemaError, SettingsError, StoreUnavailableError: as `examine`.
    """
    migrations = discover()
    with exclusive(database_url, wait=wait, waiting=waiting), connect(database_url, WORK_NAME) as connection:

        def complete() -> Completion:
            recognized = _recognize(connection, migrations, version)
            _record(connection, migrations, recognized)
            completion = Completion(connection, recognized.steps, adopting=True)
            completion.run()
            _refuse_incomplete(completion)
            return completion

        done = finish(connection, in_transaction(connection, complete, retrying), retrying)
        return Repaired(done.made, unfinished(journal.read(connection).values()) + done.left)


def _recognize(connection: Connection, migrations: tuple[Migration, ...], wanted: str | None) -> _Recognized:
    """Recognize the migrations whose objects exist. Creates the journal. Raises like `examine`."""
    if wanted is not None:
        plans.check_known(migrations, wanted)
    records = journal.read_if_allowed(connection)
    journal.refuse_unknown_migrations(migrations, records)
    # As `up` names them, which follows.
    later = [it for it in migrations if not journal.is_applied(records, it)]
    obstacles.refuse(obstacles.requirements(connection, later))
    journal.create(connection)
    facts = {(fact.kind, fact.object): fact.definition for fact in catalogue(connection)}
    version = _version(connection, migrations, facts, wanted)
    begun = _begun(connection, migrations, facts) if version == HISTORY else {}
    steps = _steps(migrations, version, begun)
    version = _complete(migrations, steps)
    if wanted not in {None, version}:
        last = f"; its last migration is {steps[-1].label}" if steps[-1].version != version else ""
        raise ObstacleError(f"the database has the columns of {version}, not of {wanted}{last}, nothing was changed")
    # The next `up` continues those that were begun outside a transaction.
    missing = [it for it in steps if it in later and (it.transactional or it.number not in records)]
    if not missing:
        raise MigrationError(
            f"the journal of the database is at {version} already; run `usage-worker migrate repair` or `migrate up`"
        )
    obstacles.refuse(_wrong_types(facts, expectations(connection, steps)))
    # A file in one transaction only creates objects. Of another one only its successor shows that it ended; the
    # last one of a version changes no rows.
    ended = {it for it in begun if begun[it] and (it is not steps[-1] or it.version == version)}
    repeated = [it for it in missing if it in begun and not it.transactional and it not in ended]
    return _Recognized(version, steps, missing, repeated)


def _steps(migrations: tuple[Migration, ...], version: str, begun: Mapping[Migration, object]) -> list[Migration]:
    """Return the migrations up to the last one of which something exists."""
    highest = max((migration.number for migration, found in begun.items() if found), default=0)
    return [it for it in migrations if it.number <= highest] or plans.up_to(migrations, version)


def _complete(migrations: tuple[Migration, ...], steps: list[Migration]) -> str:
    """Return the highest version of which all migrations are among the steps."""
    return [it.version for it in migrations if len(plans.up_to(migrations, it.version)) <= len(steps)][-1]


def _begun(
    connection: Connection, migrations: Iterable[Migration], facts: dict[Key, str]
) -> dict[Migration, set[tuple[Key, str]]]:
    """Return what exists of each migration after the history, without what an earlier one has made as well.

    Empty where the first one's columns are not there: a constraint alone may be somebody else's.
    """
    begun: dict[Migration, set[tuple[Key, str]]] = {}
    earlier: set[tuple[Key, str]] = set()
    for migration in migrations:
        expected = {
            (key, definition)
            for key, definition in expectations(connection, [migration]).items()
            # Roles belong to the cluster.
            if definition is not None and key[0] != "role"
        }
        if version_key(migration.version) > version_key(HISTORY):
            if not begun and not {key for key, _ in expected if key[0] == "column"} <= facts.keys():
                return {}
            begun[migration] = (expected - earlier) & facts.items()
        earlier |= expected
    return begun


def _partly_run(connection: Connection, recognized: _Recognized, found: list[Difference]) -> list[Deviation]:
    """Name our files of which something is missing, and those that `up` repeats."""
    # psql found no journal, to which a file grants rights.
    wrong = {(it.kind, it.object) for it in found if it.named and journal.TABLE not in it.object}
    partly = []
    for migration in recognized.missing:
        if migration in recognized.repeated:
            partly.append(Deviation("migration", migration.label, "may have stopped inside; the next up repeats it"))
        elif version_key(migration.version) > version_key(HISTORY) and not wrong.isdisjoint(
            expectations(connection, [migration])
        ):
            partly.append(Deviation("migration", migration.label, "was run in part"))
    return partly


def _version(
    connection: Connection, migrations: tuple[Migration, ...], facts: dict[Key, str], wanted: str | None
) -> str:
    """Choose the highest version of the history whose columns exist.

    Raises:
        MigrationError: there is no table to adopt.
        ObstacleError: columns are missing.
    """
    columns = {name for kind, name in facts if kind == "column"}
    expected = {
        candidate: _columns(expectations(connection, plans.up_to(migrations, candidate))).keys()
        for candidate in dict.fromkeys(migration.version for migration in migrations)
        if version_key(candidate) <= version_key(HISTORY)
    }
    known = list(expected)
    if not any(name.partition(".")[0] in PARENTS | {TABLE} for name in columns):
        raise MigrationError("there is nothing to adopt; run `usage-worker migrate up`")
    missing = {candidate: sorted(expected[candidate] - columns) for candidate in known}
    fitting = [candidate for candidate in known if not missing[candidate]]
    # Where user_agents exists, 1.0.0 alone does not describe the database.
    if any(name.startswith(f"{TABLE}.") for name in columns) and len(fitting) == 1:
        raise ObstacleError(_missing_columns(known[1], missing[known[1]]))
    best = fitting[-1]
    after = known[len(fitting)] if len(fitting) < len(known) else None
    if wanted in missing and wanted not in fitting:
        raise ObstacleError(_missing_columns(wanted, missing[wanted]))
    if wanted is None and after and columns & (expected[after] - expected[best]):
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


def _wrong_types(facts: dict[Key, str], expected: dict[Key, str | None]) -> list[Obstacle]:
    """List columns whose type cannot become ours without losing something, with the statement that changes it."""
    wrong = []
    for name, definition in _columns(expected).items():
        found, wanted = column_parts(facts.get(("column", name), definition))[0], column_parts(definition)[0]
        if found != wanted and not is_lossless(found, wanted):
            wrong.append(Obstacle(f"column {name} is {found}, expected {wanted}", type_change(name, found, wanted)))
    return wrong


def _record(connection: Connection, migrations: tuple[Migration, ...], recognized: _Recognized) -> None:
    """Write journal and marks, and create missing tables of the platform."""
    connection.execute(marks.names(migrations))
    for migration in recognized.missing:
        journal.record(connection, migration, "failed" if migration in recognized.repeated else "applied", 0)
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
