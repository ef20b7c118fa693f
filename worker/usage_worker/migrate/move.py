"""Move a database by one migration, in one direction, and record it in the journal."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql

from usage_worker.errors import MigrationError
from usage_worker.migrate import journal, marks
from usage_worker.migrate.connection import lock_timeout, one_line
from usage_worker.migrate.files import split_statements
from usage_worker.migrate.queries import query
from usage_worker.migrate.retries import retried

if TYPE_CHECKING:
    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.plans import Direction
    from usage_worker.postgres import Connection

_CONCURRENT_INDEX = re.compile(
    r"""CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"?(\w+)"?\s""", re.IGNORECASE
)


@dataclass(frozen=True)
class Step:
    """Progress of a run; `migration` is None while the run waits for another one to end."""

    event: Literal["waiting", "started", "retrying", "done"]
    direction: Direction
    migration: Migration | None = None
    duration_ms: int | None = None
    detail: str = ""


OnStep = Callable[[Step], None]


class Move:
    """One migration in one direction."""

    def __init__(
        self, connection: Connection, migration: Migration, direction: Direction, on_step: OnStep, *, has_objects: bool
    ) -> None:
        self._connection = connection
        self._migration = migration
        self._direction = direction
        self._on_step = on_step
        self._releases = marks.releases(migration)
        if direction == "up":
            self._sql = migration.up_sql
        else:
            # An upgrade in one transaction that failed has created nothing; objects with its names are not ours.
            self._sql = migration.down_sql if has_objects else ""

    def leave(self) -> None:
        """Make `run` drop nothing, because the objects of the migration are adopted."""
        self._sql = ""
        self._releases = marks.adopted_releases(self._migration)

    def run(self) -> int:
        """Move and update the journal; return the duration in milliseconds."""
        began = time.monotonic()
        try:
            self._connection.execute(lock_timeout(self._migration))
            if self._migration.transactional:
                self._in_transaction(began)
            else:
                self._in_statements(began)
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self._fail(error)
        return _milliseconds(began)

    def _in_transaction(self, began: float) -> None:
        # A rollback that fails here leaves the migration applied, so only an upgrade is recorded as running.
        if self._direction == "up":
            journal.record(self._connection, self._migration, "running")

        def attempt() -> None:
            with self._connection.transaction():
                if self._direction == "up":
                    self._connection.execute(marks.reservation(self._migration))
                self._connection.execute(self._sql.encode())
                self._finish(began)

        self._retry(attempt)

    def _in_statements(self, began: float) -> None:
        # After a kill either direction can be run again, because every statement can be repeated.
        with self._connection.transaction():
            journal.record(self._connection, self._migration, "running")
            if self._direction == "up":
                self._connection.execute(marks.reservation(self._migration))
        for statement in split_statements(self._sql):
            self._retry(partial(self._execute, statement))
        with self._connection.transaction():
            self._finish(began)

    def _execute(self, statement: str) -> None:
        index = _CONCURRENT_INDEX.match(statement)
        if index:
            _drop_invalid(self._connection, index[1])
        self._connection.execute(statement.encode())

    def _finish(self, began: float) -> None:
        if self._direction == "up":
            journal.record(self._connection, self._migration, "applied", _milliseconds(began))
        else:
            journal.remove(self._connection, self._migration)
            for release in self._releases:
                self._connection.execute(release)

    def _retry(self, attempt: Callable[[], None]) -> None:
        retried(
            attempt, lambda detail: self._on_step(Step("retrying", self._direction, self._migration, detail=detail))
        )

    def _fail(self, error: psycopg.Error) -> None:
        if self._direction == "up" or not self._migration.transactional:
            journal.record(self._connection, self._migration, "failed")
        raise MigrationError(
            f"{self._migration.label} ({self._direction}) failed: {one_line(error)};"
            f" put that right and run migrate {self._direction} again"
        ) from error


def _drop_invalid(connection: Connection, index: str) -> None:
    """Drop an index whose build was interrupted: no query uses it, and IF NOT EXISTS would keep it."""
    if connection.execute(query("invalid_index"), [f"public.{index}"]).fetchone():
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY public.{}").format(sql.Identifier(index)))


def _milliseconds(began: float) -> int:
    return round(1000 * (time.monotonic() - began))
