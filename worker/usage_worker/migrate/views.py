"""Set the options of views of which nothing else differs.

A view that views of others read cannot be dropped, and one that is created again is another object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usage_worker.migrate.definitions import Statement
    from usage_worker.migrate.verify import Difference
    from usage_worker.postgres import Connection

_OPTIONS = ("security_invoker", "security_barrier")


def set_options(connection: Connection, found: Iterable[Difference]) -> None:
    """Give views the expected options."""
    for different in found:
        for change in _changes(different):
            connection.execute(change)


def _changes(different: Difference) -> list[Statement]:
    """Build the statements; none where the query differs, too."""
    if different.kind != "view" or different.found is None or different.wanted is None:
        return []
    have, want = different.found.split(", "), different.wanted.split(", ")
    if [part for part in have if part not in _OPTIONS] != [part for part in want if part not in _OPTIONS]:
        return []
    alter = sql.SQL("ALTER VIEW {} ").format(sql.Identifier("public", different.object))
    return [
        alter + sql.SQL(f"SET ({option} = true)" if option in want else f"RESET ({option})")
        for option in _OPTIONS
        if (option in have) != (option in want)
    ]
