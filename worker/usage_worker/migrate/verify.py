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
    from usage_worker.migrate.journal import JournalRecord
    from usage_worker.postgres import Connection

Key = tuple[str, str]
# Kinds whose parts are reported when no migration names them.
_OWNERS = ("table", "view", "function")
# What is expected of each partition of ours; the catalogue has only those of which it is not true.
_CLOSED = "row-level security on"


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


@dataclass(frozen=True)
class Difference:
    """An object that is not as the migrations have created it.

    `found` is None if it is missing. `wanted` is its definition, or None if it must not exist; `named` tells whether a
    migration names the object at all.
    """

    kind: str
    object: str
    found: str | None
    wanted: str | None
    named: bool

    @property
    def problem(self) -> str:
        """Describe the difference in words."""
        if self.found is None:
            return "missing"
        return f"unexpected: {self.found}" if self.wanted is None else f"is {self.found}, expected {self.wanted}"


def catalogue(connection: Connection) -> list[Fact]:
    """Read the facts of the database."""
    # PostgreSQL qualifies names outside the search_path.
    connection.execute("SET search_path = pg_catalog")
    return [Fact(*row) for row in connection.execute(catalogue_sql().encode())]


def unfinished(records: Iterable[JournalRecord]) -> list[Deviation]:
    """List the migrations that were begun and not completed."""
    return [
        Deviation("migration", f"{record.number:03d}_{record.name}", f"is {record.state}; run it again")
        for record in records
        if record.state != "applied"
    ]


def deviations(connection: Connection, applied: Iterable[Migration]) -> list[Deviation]:
    """List missing and different objects, and unexpected parts of expected tables, views and functions."""
    return [
        Deviation(different.kind, different.object, different.problem) for different in differences(connection, applied)
    ]


def differences(connection: Connection, applied: Iterable[Migration]) -> list[Difference]:
    """List the deviations with the definitions that were found and expected."""
    expected = expectations(connection, applied)
    facts = {(fact.kind, fact.object): fact for fact in catalogue(connection)}
    ours = {name.partition("(")[0] for (kind, name), wanted in expected.items() if wanted and kind in _OWNERS}
    expected |= {key: _CLOSED for key, fact in facts.items() if fact.kind == "partition" and fact.belongs_to in ours}
    wrong = [
        Difference(*key, fact.definition if fact else None, wanted, named=True)
        for key, wanted in expected.items()
        if (None if (fact := facts.get(key)) is None else fact.definition) != wanted
    ]
    unexpected = [
        Difference(*key, fact.definition, None, named=False)
        for key, fact in facts.items()
        if key not in expected and fact.belongs_to in ours
    ]
    return sorted(wrong + unexpected, key=lambda different: (different.kind, different.object))


def expectations(connection: Connection, applied: Iterable[Migration]) -> dict[Key, str | None]:
    """Read the definition of each object that the migrations name; None if it must not exist."""
    expected: dict[Key, str | None] = {}
    for migration in applied:
        if migration.verify_sql is not None:
            rows = connection.execute(migration.verify_sql.encode())
            expected.update({(kind, name): definition for kind, name, definition in rows})
    return expected


@cache
def catalogue_sql() -> str:
    """Read the query that returns the rows of `Fact`."""
    return Path(__file__).with_name("catalog.sql").read_text(encoding="utf-8")
