"""Helpers for statements, the schema and concurrent clients."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.sessions import lent_session
from usage_worker.migrate import discover
from usage_worker.migrate.connection import connect
from usage_worker.migrate.files import split_statements
from usage_worker.migrate.verify import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from usage_worker.migrate import Migration
    from usage_worker.migrate.verify import Fact


def run(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with lent_session(url) as session:
        cursor = session.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def with_option(url: str, option: str) -> str:
    """Return the URL for sessions with a setting, given as `name=value`."""
    return f"{url}{'&' if '?' in url else '?'}options=-c{quote(option, safe='')}"


def schema(url: str) -> set[Fact]:
    """Return the catalogue without roles, which are global, kept tables, and the journal, which psql does not make."""
    with connect(url) as connection:
        facts = catalogue(connection)
    ours = (fact for fact in facts if fact.kind != "role" and fact.belongs_to != "usage_migrations")
    return {fact for fact in ours if "_kept_" not in (fact.belongs_to or "")}


def copy_up_to(last: Migration, folder: Path) -> Path:
    """Copy the migrations up to `last` to a folder in which a test may change them."""
    shutil.copytree(last.up.parent, folder)
    for migration in discover(folder):
        if migration.number > last.number:
            migration.up.unlink()
    return folder


def interrupted(text: str) -> Iterator[tuple[str, str]]:
    """Yield, for each place where a migration may stop, the statements around it and the text that fails there."""
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("--"))
    statements = split_statements(text)
    for stop in range(len(statements) + 1):
        around = "".join(statements[max(stop - 1, 0) : stop + 1])
        yield around, header + ";\n".join([*statements[:stop], "SELECT 1 / 0", *statements[stop:]]) + ";\n"


def add_pair(url: str) -> str:
    """Add a user, an agent and their row; return the ID of the row."""
    query = """
        WITH u AS (INSERT INTO auth.users (email) VALUES ('a@example.org') RETURNING id),
            a AS (INSERT INTO public.agents (name) VALUES ('helper') RETURNING id)
        SELECT u.id, a.id FROM u, a
    """
    user_id, agent_id = run(url, query)[0]
    row = run(
        url,
        "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s) RETURNING id::text",
        user_id,
        agent_id,
    )
    return str(row[0][0])


@contextmanager
def traffic(*clients: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run each client in a thread until the block ends, and raise their errors."""
    over = threading.Event()
    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(client, over) for client in clients]
        try:
            yield
        finally:
            over.set()
            # The error of a client explains more than the timeout that it caused.
            for client in running:
                client.result()
