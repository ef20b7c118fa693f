"""The access of each role to each object: every cell is a statement that the role runs and that is rolled back."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql
from psycopg.rows import namedtuple_row

from tests.access.sample import AGENT, OWNER, ROLES, STATES
from tests.access.table import written_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.access.sample import Connection, Role
    from tests.access.table import Table

_PROBE = "SELECT pg_temp.probe(%s, %s, %s, %s, %s, %s, %s)"
# Arguments without which a function returns no row.
_OPTIONAL = {"search_agents()": ["p_query_text => 'helper'"]}


class Cell(NamedTuple):
    """A probe of one cell of the document; `part` distinguishes probes that share a cell.

    `before` brings the data into the state of `row`. The result is `found` if the statement affects rows, `nothing` if
    it affects none.
    """

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
    def denied_name(self) -> str:
        """Return a regular expression of the names in a denial by privileges: the object or its schema."""
        name = self.object_name.partition(" (")[0].removesuffix("()").rpartition(".")
        return f"({name[2]}|{name[0]})" if name[0] else name[2]

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.object_name, self.command, self.row, self.role


def probe(connection: Connection, cells: Sequence[Cell]) -> list[str]:
    """Return the access that each cell has in this database."""
    return [
        access
        for before, group in groupby(cells, attrgetter("before"))
        for access in _probed(connection, before, [*group])
    ]


def _probed(connection: Connection, before: str, cells: Sequence[Cell]) -> list[str]:
    roles = [ROLES[cell.role] for cell in cells]
    columns = ("denied_name", "statement", "found", "nothing")
    row = connection.execute(
        _PROBE,
        [
            before,
            [role.role for role in roles],
            [role.claims for role in roles],
            *([getattr(cell, name) for cell in cells] for name in columns),
        ],
    ).fetchone()
    return list(row[0]) if row else []


def all_cells(connection: Connection) -> list[Cell]:
    """Return the cells of all objects of the database."""
    return [cell for obj in objects(connection) for cell in _of(connection, obj)]


def differences(connection: Connection, table: Table, cells: list[Cell]) -> list[str]:
    """Return one line for each difference between document and database."""
    return [
        f"{' | '.join(cell.key)} {cell.part}: is {found}, expected {expected}"
        for cell, found in zip(cells, probe(connection, cells), strict=True)
        if found != (expected := table.expected(*cell.key))
    ]


def objects(connection: Connection) -> list[Any]:
    """Return relations, functions and schemas, as `objects.sql` describes them."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute("SELECT * FROM objects ORDER BY kind, name").fetchall()


def _of(connection: Connection, obj: Any) -> Iterator[Cell]:
    match obj.kind:
        case "table" | "view":
            yield from _relation(connection, obj)
            yield from _privileges(obj, ("truncate", "references", "trigger", *_maintain(connection)), "table")
            if obj.kind == "view":
                yield from _invoker(obj)
            if written_columns(obj.name, "insert"):
                any_column = obj._replace(name=f"{obj.name} (any column)")
                yield from _privileges(any_column, ("select", "insert", "update"), "any_column")
        case "sequence":
            yield from _privileges(obj, ("use",), "sequence", "USAGE, SELECT, UPDATE")
        case "schema":
            yield from _privileges(obj, ("usage", "create"), "schema")
        case _:
            yield from _calls(obj)


def _relation(connection: Connection, obj: Any) -> Iterator[Cell]:
    for row, state in STATES.items():
        yield from _each_role(obj.name, "select", row, state, f"SELECT FROM {obj.sql_name}")
        if obj.kind == "view" and not obj.writable:
            continue
        yield from _each_role(obj.name, "delete", row, state, f"DELETE FROM {obj.sql_name}")
        values = _values(connection, obj, state)
        # A row that references another must be deleted before it can be inserted again.
        empty = f"{state}; DELETE FROM {obj.sql_name}"
        for object_name, part, names in _parts(obj, row, "insert"):
            yield from _each_role(object_name, "insert", row, empty, _insert(obj, values, names), part)
        for object_name, part, names in _parts(obj, row, "update"):
            yield from _each_role(object_name, "update", row, state, _update(obj, values, names), part)
        for column in obj.users:
            for name, role in ROLES.items():
                yield _cell(obj, "give away", row, name, column, state, _give_away(obj, column, role))
    if obj.kind == "view" and not obj.writable:
        # PostgreSQL rejects such statements before it checks privileges.
        yield from _privileges(obj, ("insert", "update", "delete"), "table", found="never")


def _cell(obj: Any, command: str, row: str, role: str, part: str, before: str, statement: str) -> Cell:
    return Cell(obj.name, command, row, role, part, before, statement)


def _each_role(object_name: str, command: str, row: str, before: str, statement: str, part: str = "") -> Iterator[Cell]:
    return (Cell(object_name, command, row, role, part, before, statement) for role in ROLES)


def _parts(obj: Any, row: str, command: str) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield name, part and columns of each probe: the writable columns together, every other column by itself."""
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
                kind = "computed" if name in (written_columns(obj.name, "compute") or ()) else "other"
                yield f"{obj.name} ({kind} columns)", name, together


def _values(connection: Connection, obj: Any, state: str) -> dict[str, str | None]:
    """Return the row of the table in this state, as text."""
    with connection.transaction(force_rollback=True):
        connection.execute(state.encode())
        wanted = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in obj.parts)
        query = sql.SQL("SELECT {} FROM {}").format(wanted, sql.SQL(obj.sql_name))
        row = connection.execute(query).fetchone()
    assert row, f"{obj.name} is empty: add a row to sample.sql"
    return dict(zip(obj.parts, row, strict=True))


def _insert(obj: Any, values: dict[str, str | None], names: Iterable[str]) -> str:
    statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
        sql.SQL(obj.sql_name),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(sql.Literal(values[name]) for name in names),
    )
    return statement.as_string()


def _update(obj: Any, values: dict[str, str | None], names: Iterable[str]) -> str:
    """Build an update without a condition, which would require the privilege to read."""
    changes = (sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(values[name])) for name in names)
    return sql.SQL("UPDATE {} SET {}").format(sql.SQL(obj.sql_name), sql.SQL(", ").join(changes)).as_string()


def _give_away(obj: Any, column: str, role: Role) -> str:
    return f"UPDATE {obj.sql_name} SET {column} = '{role.new_owner}'"


def _maintain(connection: Connection) -> tuple[str, ...]:
    return ("maintain",) if connection.info.server_version >= 170000 else ()


def _privileges(
    obj: Any, commands: Iterable[str], kind: str, privileges: str | None = None, found: str = "yes"
) -> Iterator[Cell]:
    """Probe privileges that no statement can show by querying them."""
    for command in commands:
        statement = f"SELECT WHERE has_{kind}_privilege({obj.oid}::oid, '{privileges or command}')"
        for role in ROLES:
            yield Cell(obj.name, command, "live", role, "", "SELECT", statement, found, "no")


def _invoker(obj: Any) -> Iterator[Cell]:
    """Probe the option of a view; reading does not show it if the view reads another `security_invoker` view."""
    statement = f"SELECT FROM pg_class WHERE oid = {obj.oid} AND 'security_invoker=true' = ANY (reloptions)"
    for role in ROLES:
        yield Cell(obj.name, "security_invoker", "live", role, "", "SELECT", statement, nothing="no")


def _calls(obj: Any) -> Iterator[Cell]:
    given = {
        "p_user_id": f"'{OWNER}'",
        "p_agent_id": f"'{AGENT}'",
        "p_users": f"ARRAY['{OWNER}']",
        "p_agents": f"ARRAY['{AGENT}']",
        "p_embedding": "'{1}'",
        "p_day": "'2026-01-31'",
        "p_recent_day": "current_date",
        "p_from": "(now() - interval '1 day')",
        "p_to": "now()",
    }
    arguments = list(_OPTIONAL.get(obj.name, ()))
    for part in obj.parts:
        name, _, kind = part.partition(" ")
        arguments.append(f"{given.get(name, 'NULL')}::{kind}")
    call = f"{obj.sql_name}({', '.join(arguments)})"
    statement = f"SELECT WHERE {call}" if obj.kind == "predicate" else f"SELECT {call}"
    for row, state in STATES.items():
        yield from _each_role(obj.name, "call", row, state, statement)
