"""Recreate what `verify` reports as missing or changed, without changing a row.

First what needs a lock on a table, in a short transaction each: in one for all, the locks were kept for as long as the
rest took. One transaction makes the rest, so that nothing is granted before it is protected, and what needed the rest
first, such as a trigger without its function. Last come the indexes, which are built concurrently, and the comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg import sql

from usage_worker.errors import MigrationError
from usage_worker.migrate import journal
from usage_worker.migrate.comments import restore_comments
from usage_worker.migrate.completion import Completion
from usage_worker.migrate.connection import WORK_NAME, connect, exclusive, one_line
from usage_worker.migrate.files import discover
from usage_worker.migrate.retries import retried
from usage_worker.migrate.verify import Deviation, differences, expectations, unfinished
from usage_worker.migrate.views import set_options
from usage_worker.postgres import LOST_RACES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.verify import Difference, Key
    from usage_worker.postgres import Connection

# A short wait for each lock: while a statement waits, clients queue behind it; with 200 ms some waited more than 250.
_SET_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '100ms'"
_SET_SHORT_TIMEOUT = "SET lock_timeout = '100ms'"
# Long, since a concurrent build waits for older transactions, and clients do not wait for it.
_SET_BUILD_TIMEOUT = "SET lock_timeout = '15min'"
_OF_TABLES = ("column", "policy", "table", "replica identity", "partition", "constraint", "trigger")
_INDEX = re.compile(r"(?P<create>CREATE (?:UNIQUE )?INDEX )\S+(?P<on> ON .+)")

T = TypeVar("T")


@dataclass(frozen=True)
class Repaired:
    """The objects that were made, each with the problem that it had, and those that are left to do by hand."""

    made: list[Deviation]
    left: list[Deviation]


def repair(
    database_url: str,
    *,
    wait: bool = True,
    waiting: Callable[[], None] = lambda: None,
    retrying: Callable[[str], None] = lambda _: None,
) -> Repaired:
    """Give every object of the applied migrations its definition again.

    Args:
        database_url: the database.
        wait: wait for another run to end instead of failing.
        waiting: called once if another run holds the lock.
        retrying: called with the reason before each new attempt at a lock.

    Raises:
        SchemaError: nothing is installed, or the database is newer than this code.
        MigrationError: a file was edited, another run holds the lock and `wait` is false, or a lock could not be had.
        SettingsError: the URL cannot be read.
        StoreUnavailableError: the database cannot be reached.
    """
    migrations = discover()
    with exclusive(database_url, wait=wait, waiting=waiting), connect(database_url, WORK_NAME) as connection:
        records = journal.read_installed(connection, migrations)
        applied = journal.applied(migrations, records)
        done = finish(connection, _complete(connection, applied, retrying), retrying)
        return Repaired(done.made, unfinished(records.values()) + done.left)


def _complete(connection: Connection, applied: Sequence[Migration], retrying: Callable[[str], None]) -> Completion:
    """Make everything except indexes and comments.

    Raises:
        MigrationError: a lock could not be had.
    """
    completion = Completion(connection, applied)

    def of_tables() -> None:
        completion.left = differences(connection, applied)
        completion.run(_OF_TABLES)

    def together() -> Completion:
        set_options(connection, completion.left)
        completion.left = differences(connection, applied)
        completion.run()
        return completion

    connection.execute(_SET_SHORT_TIMEOUT)
    _retried(of_tables, retrying)
    return in_transaction(connection, together, retrying)


def in_transaction(
    connection: Connection, attempt: Callable[[], Completion], retrying: Callable[[str], None]
) -> Completion:
    """Run an attempt in a transaction with a short `lock_timeout`, and repeat it when it lost a race.

    Raises:
        MigrationError: every attempt lost a race; the attempt changed nothing.
    """

    def transaction() -> Completion:
        with connection.transaction():
            connection.execute(_SET_LOCK_TIMEOUT)
            return attempt()

    return _retried(transaction, retrying)


def _retried(attempt: Callable[[], T], retrying: Callable[[str], None]) -> T:
    """Retry lost races.

    Raises:
        MigrationError: every attempt lost one.
    """
    try:
        return retried(attempt, retrying)
    except LOST_RACES as error:
        raise MigrationError(f"{one_line(error)}; run it again") from error


def finish(connection: Connection, completion: Completion, retrying: Callable[[str], None]) -> Repaired:
    """Build the indexes, comment on what was made, and report."""
    left, reasons = completion.left, completion.reasons
    indexes = _missing_indexes(connection, completion.migrations, left)
    if indexes:
        reasons |= _build_indexes(connection, indexes, retrying)
        left = differences(connection, completion.migrations)
    restore_comments(connection, completion.migrations, retrying)
    still = {(different.kind, different.object) for different in left}
    made = [different for different in completion.before if (different.kind, different.object) not in still]
    return Repaired([Deviation(it.kind, it.object, it.problem) for it in made], [deviation(it, reasons) for it in left])


def _missing_indexes(
    connection: Connection, migrations: Sequence[Migration], found: Iterable[Difference]
) -> list[Difference]:
    """Choose the indexes that do not belong to a constraint."""
    of_constraints = {
        name.partition(".")[2] for kind, name in expectations(connection, migrations) if kind == "constraint"
    }
    return [it for it in found if it.kind == "index" and it.named and it.object not in of_constraints]


def _build_indexes(
    connection: Connection, indexes: Iterable[Difference], retrying: Callable[[str], None]
) -> dict[Key, str]:
    """Build missing and different indexes; return the reasons of those that could not be built."""
    connection.execute(_SET_BUILD_TIMEOUT)
    reasons: dict[Key, str] = {}
    for different in indexes:
        try:
            retried(partial(_build, connection, different), retrying)
        except psycopg.DatabaseError as error:
            if connection.closed:
                raise
            reasons["index", different.object] = one_line(error)
    return reasons


def deviation(different: Difference, reasons: dict[Key, str]) -> Deviation:
    """Describe a difference, with the reason why it could not be removed, or with advice."""
    detail = reasons.get((different.kind, different.object))
    if not different.named and different.kind != "grant":
        detail = "drop it if it is not wanted"
    return Deviation(different.kind, different.object, different.problem + (f"; {detail}" if detail else ""))


def _build(connection: Connection, different: Difference) -> None:
    """Build an index under another name, drop the old one, and rename; can be repeated after a failure."""
    name = different.object
    if different.wanted is None:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier("public", name)))
        return
    parts = _INDEX.fullmatch(different.wanted)
    assert parts  # noqa: S101 - the form of pg_get_indexdef
    if parts["on"].startswith(" ON ONLY "):
        # PostgreSQL cannot build an index of a partitioned table concurrently: writers wait.
        with connection.transaction():
            connection.execute(_SET_LOCK_TIMEOUT)
            connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier("public", name)))
            connection.execute(different.wanted.replace(" ON ONLY ", " ON ", 1).encode())
        return
    built = f"{name}_built"
    for statement in (
        sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier("public", built)),
        sql.SQL(f"{parts['create']}CONCURRENTLY {built}{parts['on']}"),
        sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier("public", name)),
        sql.SQL("ALTER INDEX {} RENAME TO {}").format(sql.Identifier("public", built), sql.Identifier(name)),
    ):
        connection.execute(statement)
