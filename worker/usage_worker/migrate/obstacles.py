"""Refuse a migration that cannot succeed, before anything is changed, and name every obstacle at once.

The queries read the table that `marks.names` fills; the script runs the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors, sql

from usage_worker.errors import ObstacleError
from usage_worker.migrate.connection import one_line
from usage_worker.migrate.queries import query
from usage_worker.migrate.verify import catalogue_sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.plans import Direction
    from usage_worker.postgres import Connection

# For each direction: a query that returns the obstacles as one text, or NULL, and what to do about them.
CHECKS = {
    "up": (
        (
            "taken_names",
            "the migrations need these names; rename or drop what has them and run migrate up again",
        ),
        ("column_numbers", "dump and restore the table and run migrate up again"),
        ("refused_values", "correct these rows and run migrate up again"),
    ),
    "down": (("unmarked_names", "migrations did not make what has these names; rename it and run migrate down again"),),
}


def refuse_encoding(connection: Connection) -> None:
    """Refuse a database whose encoding cannot hold every text.

    Raises:
        ObstacleError: the encoding is not UTF8.
    """
    try:
        connection.execute(query("refuse_encoding"))
    except errors.RaiseException as error:
        raise ObstacleError(one_line(error)) from None


def refuse(connection: Connection, plan: Iterable[Migration], direction: Direction) -> None:
    """Refuse a plan that cannot succeed: names are taken, column numbers are used up, or a CHECK would refuse rows.

    Raises:
        ObstacleError: names every obstacle of one kind, and the remedy.
    """
    for check, remedy in _checks(plan, direction):
        row = connection.execute(check).fetchone()
        if row and row[0]:
            raise ObstacleError(f"{row[0]}: {remedy}")


def refusals(plan: Iterable[Migration], direction: Direction) -> list[sql.Composed]:
    """Build the statements with which a script does what `refuse` does."""
    return [
        sql.SQL(query("refuse_obstacles")).format(query=check, remedy=sql.Literal(remedy))
        for check, remedy in _checks(plan, direction)
    ]


def _checks(plan: Iterable[Migration], direction: Direction) -> Iterator[tuple[sql.Composed, str]]:
    numbers = sql.SQL("{}::integer[]").format(sql.Literal([migration.number for migration in plan]))
    for name, remedy in CHECKS[direction]:
        body = sql.SQL(query(name)).format(plan=numbers, catalogue=sql.SQL(catalogue_sql()))
        yield sql.SQL(query("obstacle_names") + "\n") + body, f"{remedy}, nothing was changed"
