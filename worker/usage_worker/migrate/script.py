"""Print a migration as one psql script, for a database to which only its administrator connects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from usage_worker.migrate import journal, marks, obstacles, plans
from usage_worker.migrate.connection import LOCK_KEY, lock_timeout
from usage_worker.migrate.files import EMPTY
from usage_worker.migrate.queries import query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.plans import Direction

# Without ON_ERROR_STOP psql would continue after the refusals below.
_STOP = "\\set ON_ERROR_STOP on"


def script(migrations: tuple[Migration, ...], start: str, target: str) -> str:
    """Build the script that does what the runner does from version `start` to `target`, including the journal.

    Unlike the runner, the script stops when it has to wait too long for a lock; the runner can then continue from the
    journal.

    Raises:
        MigrationError: there is no such version, or no rollback.
    """
    installed, wanted = (_up_to(migrations, version) for version in (start, target))
    direction: Direction = "up" if len(wanted) >= len(installed) else "down"
    plan = wanted[len(installed) :] if direction == "up" else installed[len(wanted) :][::-1]
    parts = [
        f"-- usage-worker: the schema from {start} to {target}. Run it with psql, and not inside a transaction:"
        " psql -X -v ON_ERROR_STOP=1 -f FILE",
        _STOP + "\n" + query("session_settings"),
        _statement(sql.SQL(query("try_lock_or_stop")).format(key=sql.Literal(LOCK_KEY))),
        *map(_statement, obstacles.refusals(plan, direction, named=False)),
        "BEGIN;",
        _statement(sql.SQL(query("create_journal"))),
        _statement(_check(start, installed, plan)),
        _statement(marks.names(migrations)),
        *map(_statement, obstacles.refusals(plan, direction, named=True)),
        "COMMIT;",
        *(_step(migration, direction) for migration in plan),
    ]
    return "\n\n".join(parts) + "\n"


def _up_to(migrations: tuple[Migration, ...], version: str) -> list[Migration]:
    if version != EMPTY:
        plans.check_known(migrations, version)
    return plans.up_to(migrations, version)


def _check(start: str, installed: Sequence[Migration], plan: Sequence[Migration]) -> sql.Composed:
    return sql.SQL(query("check_start")).format(
        plan=sql.SQL(", ").join(sql.Literal(migration.number) for migration in plan),
        installed=sql.SQL(",\n        ").join(
            sql.Literal(f"{migration.number} applied {migration.sha256}") for migration in installed
        ),
        start=sql.SQL(start),
    )


def _step(migration: Migration, direction: Direction) -> str:
    """Build the part of one migration, statement for statement as the runner executes it."""
    up = direction == "up"
    running = [_statement(journal.recording(migration, "running"))]
    reserve = [_statement(marks.reservation(migration))] if up else []
    move = [_terminated(migration.up_sql if up else migration.down_sql)]
    last = (
        (journal.recording(migration, "applied"),) if up else (journal.removal(migration), *marks.releases(migration))
    )
    finish = [*map(_statement, last)]
    if migration.transactional:
        moves = [*(running if up else []), *_together(*reserve, *move, *finish)]
    else:
        moves = [*_together(*running, *reserve), *move, *finish]
    return "\n\n".join((f"-- {migration.label} ({direction})", _statement(lock_timeout(migration)), *moves))


def _together(*statements: str) -> tuple[str, ...]:
    return ("BEGIN;", *statements, "COMMIT;")


def _statement(statement: sql.Composable) -> str:
    return f"{statement.as_string().strip()};"


def _terminated(text: str) -> str:
    """Add the semicolon that the last statement of a file may omit, since more statements follow."""
    text = text.strip()
    return text if text.endswith(";") else f"{text}\n;"
