"""Refuse a migration that cannot succeed, before anything is changed, and name every obstacle at once.

The queries on names read the table that `marks.names` fills; the script runs the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from usage_worker.errors import ObstacleError
from usage_worker.migrate.queries import query
from usage_worker.migrate.verify import catalogue_sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.plans import Direction
    from usage_worker.postgres import Connection

# Pairs of a query, which returns the obstacles of one kind as one text, or NULL, and of what to do about them.
# These need no table of ours: where they find something, the journal may not be creatable.
REQUIREMENTS = (
    ("server_version", "15 or newer is needed"),
    ("encoding", "make a new one with createdb -E UTF8 -T template0"),
    ("rights", "grant them, or let a role migrate that has them"),
    ("parents", "the migrations use these tables of others; add or change what is named"),
)
ADOPT = "it has the columns of this schema; run `usage-worker migrate adopt`"
# These read the names that the migrations take, for each direction.
CHECKS = {
    "up": (
        ("unmarked_known_table", ADOPT),
        (
            "taken_names",
            "the migrations need these names; rename or drop what has them and run migrate up again",
        ),
        ("column_numbers", "dump and restore the table and run migrate up again"),
        ("missing_columns", "migrations that are applied created them; add them again"),
        ("refused_values", "correct these rows and run migrate up again"),
    ),
    "down": (
        ("unmarked_names", "migrations did not make what has these names; rename it and run migrate down again"),
        ("foreign_dependents", "they depend on what the rollback drops; drop them and run migrate down again"),
        # Upgrades that stopped inside of a step: the rollback of the step takes it for one that has not begun.
        ("half_restored", "end it first with `usage-worker migrate up --to 3.0.0`"),
        (
            "expiring_shares",
            "3.0.0 would never end them; end the upgrade first with `usage-worker migrate up --to 4.0.0`",
        ),
    ),
}


class Obstacle(NamedTuple):
    """What stands in the way, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def requirements(connection: Connection, plan: Iterable[Migration]) -> list[Obstacle]:
    """List what the server, the role and the platform's tables lack."""
    return _found(connection, REQUIREMENTS, _numbers(plan))


def taken(connection: Connection, plan: Iterable[Migration], direction: Direction) -> list[Obstacle]:
    """List obstacles in schema public: taken names, too few column numbers, missing columns, refused values.

    A table to adopt is the only one then: the taken names belong to it.
    """
    found = _found(connection, CHECKS[direction], _numbers(plan), named=True)
    return [it for it in found if it.remedy == ADOPT] or found


def refuse(obstacles: Iterable[Obstacle]) -> None:
    """Refuse a plan that has obstacles.

    Raises:
        ObstacleError: names every obstacle and its remedy.
    """
    if found := "; ".join(map(str, obstacles)):
        raise ObstacleError(f"{found}, nothing was changed")


def refusals(plan: Iterable[Migration], direction: Direction, *, named: bool) -> list[sql.Composed]:
    """Build the statements with which a script refuses obstacles; `named` chooses the queries that need the names."""
    numbers = _numbers(plan)
    checks = CHECKS[direction] if named else REQUIREMENTS if direction == "up" else ()
    return [
        sql.SQL(query("refuse_obstacles")).format(query=check, remedy=sql.Literal(f"{remedy}, nothing was changed"))
        for check, remedy in _statements(checks, numbers, named=named)
    ]


def _found(
    connection: Connection, checks: Iterable[tuple[str, str]], numbers: sql.Composed, *, named: bool = False
) -> list[Obstacle]:
    rows = (
        (connection.execute(check).fetchone(), remedy) for check, remedy in _statements(checks, numbers, named=named)
    )
    return [Obstacle(row[0], remedy) for row, remedy in rows if row and row[0]]


def _statements(
    checks: Iterable[tuple[str, str]], numbers: sql.Composed, *, named: bool
) -> Iterator[tuple[sql.Composed, str]]:
    for name, remedy in checks:
        body = sql.SQL(query(name)).format(
            plan=numbers, catalogue=sql.SQL(catalogue_sql()), known_table=sql.SQL(query("known_table"))
        )
        yield sql.SQL(query("obstacle_names") + "\n" if named else "") + body, remedy


def _numbers(plan: Iterable[Migration]) -> sql.Composed:
    return sql.SQL("{}::integer[]").format(sql.Literal([migration.number for migration in plan]))
