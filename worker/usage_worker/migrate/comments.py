"""Restore the comments of objects that were recreated.

A comment is a statement of its own, or a block that comments on what a query finds, such as the columns of a view.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from usage_worker.migrate.files import split_statements
from usage_worker.migrate.queries import query
from usage_worker.migrate.retries import retried
from usage_worker.migrate.verify import expectations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from usage_worker.migrate.files import Migration
    from usage_worker.postgres import Connection

_COMMENT = re.compile(
    r"""COMMENT\s+ON\s+(?:MATERIALIZED\s+)?\w+\s+(?:(?:\w+|"[^"]+")\s+ON\s+)?public\.(?P<name>\w+)[^']*?\sIS\s+'(?:[^']|'')*'"""
)
_BLOCK = re.compile(r"DO \$comments\$.*\bEXECUTE format\('COMMENT ON", re.DOTALL)


def restore_comments(connection: Connection, migrations: Sequence[Migration], retrying: Callable[[str], None]) -> None:
    """Repeat the comments of the files, in their order, on the migrations' objects that have none.

    Each comment is committed by itself; the next repair finds what a kill left without one.
    """
    ours = {re.split(r"[.(]", name)[0] for (_, name), wanted in expectations(connection, migrations).items() if wanted}
    bare = ours.intersection(name for (name,) in connection.execute(query("uncommented")))
    if not bare:
        return
    connection.execute("SET search_path = public")
    for names, statement in _comments(migrations):
        if not names.isdisjoint(bare):
            # The object is missing, or a later migration renamed or dropped it.
            with suppress(psycopg.ProgrammingError):
                retried(partial(connection.execute, statement.encode()), retrying)


def _comments(migrations: Sequence[Migration]) -> Iterator[tuple[set[str], str]]:
    """Yield the statements that comment, each with the relations, indexes and functions that it names."""
    for migration in migrations:
        for statement in split_statements(migration.up_sql):
            for comment in _COMMENT.finditer(statement):
                yield {comment["name"]}, comment.group()
            if _BLOCK.match(statement):
                yield set(re.findall(r"\w+", statement)), statement
