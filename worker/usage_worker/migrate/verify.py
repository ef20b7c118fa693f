"""Compare a database with what its migrations have created.

A `.verify.sql` is a query of rows (kind, object, definition), in the form of `catalog.sql`. A later file supersedes
what an earlier one expects of an object; a definition of NULL means that the object must not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usage_worker.migrate.files import Migration
    from usage_worker.postgres import Connection

Key = tuple[str, str]


@dataclass(frozen=True)
class Fact:
    """An object of the database; `belongs_to` is the relation or function that it is part of."""

    kind: str
    object: str
    belongs_to: str | None
    definition: str


@dataclass(frozen=True)
class Deviation:
    """A difference between the database and the expectation."""

    kind: str
    object: str
    problem: str


def catalogue(connection: Connection) -> list[Fact]:
    """Read the facts of the database."""
    # PostgreSQL qualifies names outside the search_path.
    connection.execute("SET search_path = pg_catalog")
    return [Fact(*row) for row in connection.execute(catalogue_sql().encode())]


def deviations(connection: Connection, applied: Iterable[Migration]) -> list[Deviation]:
    """List missing and different objects, and unexpected parts of expected tables, views and functions."""
    expected = _expectations(connection, applied)
    facts = {(fact.kind, fact.object): fact for fact in catalogue(connection)}
    ours = {name.partition("(")[0] for (kind, name), wanted in expected.items() if wanted and kind in _OWNERS}
    wrong = [
        Deviation(*key, problem) for key, wanted in expected.items() if (problem := _problem(facts.get(key), wanted))
    ]
    unexpected = [
        Deviation(*key, f"unexpected: {fact.definition}")
        for key, fact in facts.items()
        if key not in expected and fact.belongs_to in ours
    ]
    return sorted(wrong + unexpected, key=lambda deviation: (deviation.kind, deviation.object))


_OWNERS = ("table", "view", "function")


def _expectations(connection: Connection, applied: Iterable[Migration]) -> dict[Key, str | None]:
    expected: dict[Key, str | None] = {}
    for migration in applied:
        if migration.verify_sql is not None:
            rows = connection.execute(migration.verify_sql.encode())
            expected.update({(kind, name): definition for kind, name, definition in rows})
    return expected


def _problem(fact: Fact | None, wanted: str | None) -> str | None:
    if fact is None:
        return "missing" if wanted is not None else None
    if wanted is None:
        return f"unexpected: {fact.definition}"
    return None if fact.definition == wanted else f"is {fact.definition}, expected {wanted}"


@cache
def catalogue_sql() -> str:
    """Read the query that returns the rows of `Fact`."""
    return Path(__file__).with_name("catalog.sql").read_text(encoding="utf-8")
