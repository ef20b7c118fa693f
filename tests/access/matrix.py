"""What each role may do to each object: every cell is a statement that the role really runs, and that is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql
from psycopg.rows import namedtuple_row

from tests.access.table import written_columns
from tests.access.world import AGENT, OWNER, ROLES, STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.access.table import Table
    from tests.access.world import Connection, Role

_PROBE = """
SELECT pg_temp.probe(role, claims, door, before, statement, found, nothing)
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
       WITH ORDINALITY AS cell (role, claims, door, before, statement, found, nothing, place)
 ORDER BY place
"""


class Cell(NamedTuple):
    """A cell of the table; `part` tells those apart that one cell of the document stands for."""

    object_name: str
    command: str
    row: str
    role: str
    part: str
    before: str
    statement: str
    found: str = "yes"
    nothing: str = "-"

    @property
    def door(self) -> str:
        """What a message names that refuses to let the role in: the object, or the schema that it cannot enter."""
        name = self.object_name.partition(" (")[0].removesuffix("()").rpartition(".")
        return f"({name[2]}|{name[0]})" if name[0] else name[2]

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.object_name, self.command, self.row, self.role


def probe(connection: Connection, cells: Sequence[Cell]) -> list[str]:
    """What each cell is in this database."""
    roles = [ROLES[cell.role] for cell in cells]
    rows = connection.execute(
        _PROBE,
        [
            [role.role for role in roles],
            [role.claims for role in roles],
            *([getattr(cell, name) for cell in cells] for name in ("door", "before", "statement", "found", "nothing")),
        ],
    )
    return [row[0] for row in rows]


def all_cells(connection: Connection) -> list[Cell]:
    """The cells of all objects of the database."""
    return [cell for obj in objects(connection) for cell in _of(connection, obj)]


def differences(connection: Connection, table: Table, cells: list[Cell]) -> list[str]:
    """Where the document and the database differ."""
    return [
        f"{' | '.join(cell.key)} {cell.part}: is {found}, expected {expected}"
        for cell, found in zip(cells, probe(connection, cells), strict=True)
        if found != (expected := table.expected(*cell.key))
    ]


def objects(connection: Connection) -> list[Any]:
    """Relations, functions and schemas, as `objects.sql` describes them."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute("SELECT * FROM objects ORDER BY kind, name").fetchall()


def _of(connection: Connection, obj: Any) -> Iterator[Cell]:
    match obj.kind:
        case "table" | "view":
            yield from _relation(connection, obj)
            yield from _rights(obj, ("truncate", "references", "trigger", *_maintain(connection)), "table")
            if obj.kind == "view":
                yield from _invoker(obj)
            if written_columns(obj.name, "insert"):
                any_column = obj._replace(name=f"{obj.name} (any column)")
                yield from _rights(any_column, ("select", "insert", "update"), "any_column")
        case "sequence":
            yield from _rights(obj, ("use",), "sequence", "USAGE, SELECT, UPDATE")
        case "schema":
            yield from _rights(obj, ("usage", "create"), "schema")
        case _:
            yield from _calls(obj)


def _relation(connection: Connection, obj: Any) -> Iterator[Cell]:
    for row, state in STATES.items():
        yield from _each_role(obj.name, "select", row, state, f"SELECT FROM {obj.sql_name}")
        if obj.kind == "view" and not obj.writable:
            continue
        yield from _each_role(obj.name, "delete", row, state, f"DELETE FROM {obj.sql_name}")
        values = _values(connection, obj, state)
        # What belongs to the row has to go before it can come again.
        empty = f"{state}; DELETE FROM {obj.sql_name}"
        for object_name, part, names in _parts(obj, row, "insert"):
            yield from _each_role(object_name, "insert", row, empty, _insert(obj, values, names), part)
        for object_name, part, names in _parts(obj, row, "update"):
            yield from _each_role(object_name, "update", row, state, _update(obj, values, names), part)
        for column in obj.users:
            for name, role in ROLES.items():
                yield _cell(obj, "give away", row, name, column, state, _give_away(obj, column, role))
    if obj.kind == "view" and not obj.writable:
        # Such a statement fails before the rights are asked for.
        yield from _rights(obj, ("insert", "update", "delete"), "table", found="never")


def _cell(obj: Any, command: str, row: str, role: str, part: str, before: str, statement: str) -> Cell:
    return Cell(obj.name, command, row, role, part, before, statement)


def _each_role(object_name: str, command: str, row: str, before: str, statement: str, part: str = "") -> Iterator[Cell]:
    return (Cell(object_name, command, row, role, part, before, statement) for role in ROLES)


def _parts(obj: Any, row: str, command: str) -> Iterator[tuple[str, str, Sequence[str]]]:
    """The columns to write together, with the name of what they are; those that users do not write one by one."""
    names = written_columns(obj.name, command)
    if names is None:
        others = [name for name in obj.parts if name not in obj.key]
        yield obj.name, "", others if command == "update" and others else obj.parts
        return
    yield obj.name, "", names
    if row == "live":
        for name in obj.parts:
            if name not in names:
                together = (*names, name) if command == "insert" else (name,)
                yield f"{obj.name} (other columns)", name, together


def _values(connection: Connection, obj: Any, state: str) -> dict[str, str | None]:
    """The row of the table in this state, as text."""
    with connection.transaction(force_rollback=True):
        connection.execute(state.encode())
        wanted = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in obj.parts)
        query = sql.SQL("SELECT {} FROM {}").format(wanted, sql.SQL(obj.sql_name))
        row = connection.execute(query).fetchone()
    assert row, f"{obj.name} is empty: add a row to world.sql"
    return dict(zip(obj.parts, row, strict=True))


def _insert(obj: Any, values: dict[str, str | None], names: Iterable[str]) -> str:
    statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
        sql.SQL(obj.sql_name),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(sql.Literal(values[name]) for name in names),
    )
    return statement.as_string()


def _update(obj: Any, values: dict[str, str | None], names: Iterable[str]) -> str:
    """Without a condition, which would ask for the right to read."""
    changes = (sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(values[name])) for name in names)
    return sql.SQL("UPDATE {} SET {}").format(sql.SQL(obj.sql_name), sql.SQL(", ").join(changes)).as_string()


def _give_away(obj: Any, column: str, role: Role) -> str:
    return f"UPDATE {obj.sql_name} SET {column} = '{role.new_owner}'"


def _maintain(connection: Connection) -> tuple[str, ...]:
    return ("maintain",) if connection.info.server_version >= 170000 else ()


def _rights(
    obj: Any, commands: Iterable[str], kind: str, privileges: str | None = None, found: str = "yes"
) -> Iterator[Cell]:
    """What cannot be tried out is asked for."""
    for command in commands:
        statement = f"SELECT WHERE has_{kind}_privilege({obj.oid}::oid, '{privileges or command}')"
        for role in ROLES:
            yield Cell(obj.name, command, "live", role, "", "SELECT", statement, found, "no")


def _invoker(obj: Any) -> Iterator[Cell]:
    """A view upon a view of the caller's rights would not show the difference."""
    statement = f"SELECT FROM pg_class WHERE oid = {obj.oid} AND 'security_invoker=true' = ANY (reloptions)"
    for role in ROLES:
        yield Cell(obj.name, "security_invoker", "live", role, "", "SELECT", statement, nothing="no")


def _calls(obj: Any) -> Iterator[Cell]:
    given = {"p_user_id": f"'{OWNER}'", "p_agent_id": f"'{AGENT}'", "p_day": "'2026-01-31'"}
    arguments = []
    for part in obj.parts:
        name, _, kind = part.partition(" ")
        arguments.append(f"{given.get(name, 'NULL')}::{kind}")
    call = f"{obj.sql_name}({', '.join(arguments)})"
    statement = f"SELECT WHERE {call}" if obj.kind == "predicate" else f"SELECT {call}"
    for row, state in STATES.items():
        yield from _each_role(obj.name, "call", row, state, statement)
