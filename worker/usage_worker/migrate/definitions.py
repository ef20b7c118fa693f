"""Statements that recreate an object, from the definition that `verify` expects or from the files of migrations.

The definition of an index, constraint, policy or grant is complete. That of a function or view has only a checksum, and
PostgreSQL does not always accept the text of a trigger that it printed: these use the last statement in the files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import sql

from usage_worker.migrate.files import split_statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from usage_worker.migrate.files import Migration
    from usage_worker.migrate.verify import Difference, Key

Statement = sql.Composed | sql.SQL

_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_CREATE = re.compile(
    r"""\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:MATERIALIZED\s+)?
        (?:(?P<kind>TABLE|VIEW|FUNCTION)\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:public\.(?P<name>\w+)|auth\.(?P<auth>\w+\(\)))
        |TRIGGER\s+(?P<trigger>\w+)\s
        |ROLE\s)""",
    re.IGNORECASE | re.VERBOSE,
)
# A block may create a trigger with its function.
_REPLACEABLE = re.compile(r"\bCREATE\s+(?:OR\s+REPLACE\s+)?(FUNCTION|TRIGGER)\b", re.IGNORECASE)
_ROLES = re.compile(r"'(\w+)'")
# The form in which `catalog.sql` prints a policy.
POLICY = re.compile(
    r"(?P<restrictive>restrictive )?(?P<command>\w+) to (?P<roles>.+?)"
    r"(?: using (?P<using>.+?))?(?: check (?P<check>.+))?",
)
# The name that it gives a grant.
GRANT = re.compile(r"(?P<what>table|column|function) (?P<name>.+) to (?P<role>\w+)")
_OPTION = re.compile(r"([a-z_]+)=(\S+?)(?=,|$)")
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_VARYING = re.compile(r"character varying(\(\d+\))?(\[\])?")
_INTEGERS = ("smallint", "integer", "bigint")


class Sources:
    """For each object, the last statement of the migrations that creates it; a DO block counts as one statement."""

    def __init__(self, migrations: Iterable[Migration]) -> None:
        self._statements: dict[Key, str] = {}
        for migration in migrations:
            for statement in split_statements(migration.up_sql):
                self._add(statement)

    def create(self, kind: str, name: str) -> str | None:
        """Return the statement that creates an object; a function is created or replaced."""
        key = name.partition(".")[2] if kind == "trigger" else name
        statement = self._statements.get((kind, key if kind == "auth" else key.partition("(")[0]))
        if statement and kind == "function":
            return _REPLACEABLE.sub(r"CREATE OR REPLACE \1", statement)
        return statement

    def views(self) -> dict[str, str]:
        """Return the statements that create views, in the order of the files: a view may read the ones before it."""
        return {name: text for (kind, name), text in self._statements.items() if kind == "view"}

    def _add(self, statement: str) -> None:
        for found in _CREATE.finditer(_COMMENT.sub("", statement)):
            if found["kind"] and found["name"]:
                self._set(found["kind"].lower(), found["name"], statement)
            elif found["auth"]:
                self._set("auth", found["auth"], statement)
            elif found["trigger"]:
                self._set("trigger", found["trigger"], statement)
            else:
                for name in _ROLES.findall(statement):
                    self._set("role", name, statement)

    def _set(self, kind: str, name: str, statement: str) -> None:
        # Removed first, so that the order is that of the last statements.
        self._statements.pop((kind, name), None)
        self._statements[kind, name] = statement


def statements(different: Difference) -> list[Statement]:
    """Build the statements that give an object its expected definition, or drop what must not exist.

    Returns:
        An empty list where the definition is not enough: for functions, views, missing tables and missing columns.
    """
    build = _BUILDERS.get(different.kind)
    return list(build(different)) if build else []


def is_lossless(old: str, new: str) -> bool:
    """Tell whether a change to the type `new` alters no value of the type `old`.

    A number with too many digits before the point fails the change. `character(n)` loses trailing spaces, and `json`
    the order of keys and repeated keys.
    """
    if new in {"text", "text[]"}:
        return bool(_VARYING.fullmatch(old)) and old.endswith("[]") == new.endswith("[]")
    narrow, wide = _NUMERIC.fullmatch(old), _NUMERIC.fullmatch(new)
    if old in _INTEGERS:
        return bool(wide) or new in _INTEGERS[_INTEGERS.index(old) :]
    return narrow is not None and wide is not None and int(wide[2]) >= int(narrow[2])


def type_change(column: str, old: str, new: str) -> str:
    """Return advice with the statement that changes the type of a column where that may lose something."""
    table, _, name = column.partition(".")
    zone = f"{name} AT TIME ZONE 'UTC'" if new.startswith("timestamp with") and "without" in old else f"{name}::{new}"
    alter = f"ALTER TABLE public.{table} ALTER COLUMN {name} "
    statement = f"{alter}DROP DEFAULT, ALTER COLUMN {name} TYPE {new} USING {zone}"
    hint = " with the time zone in which its values were written" if "AT TIME ZONE" in zone else ""
    return f"run {statement}{hint}"


def column_parts(definition: str) -> tuple[str, bool, str | None]:
    """Split the definition of a column into type, NOT NULL and default."""
    head, _, default = definition.partition(" default ")
    return head.removesuffix(" not null"), head.endswith(" not null"), default or None


def _table(different: Difference) -> Iterator[sql.Composed]:
    found, wanted = different.found, different.wanted
    if found is None or wanted is None or found.partition(",")[0] != wanted.partition(",")[0]:
        return
    alter = sql.SQL("ALTER TABLE {} ").format(sql.Identifier("public", different.object))
    switch = "ENABLE" if "security on" in wanted else "DISABLE"
    yield alter + sql.SQL(f"{switch} ROW LEVEL SECURITY")
    yield alter + sql.SQL("FORCE ROW LEVEL SECURITY" if ", forced" in wanted else "NO FORCE ROW LEVEL SECURITY")
    have, want = dict(_OPTION.findall(found)), dict(_OPTION.findall(wanted))
    if extra := have.keys() - want.keys():
        yield alter + sql.SQL("RESET ({})").format(sql.SQL(", ").join(map(sql.Identifier, sorted(extra))))
    if want:
        pairs = (sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in want.items())
        yield alter + sql.SQL("SET ({})").format(sql.SQL(", ").join(pairs))


def _replica_identity(different: Difference) -> Iterator[sql.Composed]:
    yield sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(sql.Identifier("public", different.object))


def _partition(different: Difference) -> Iterator[sql.SQL]:
    # The name is quoted and has its schema.
    found, _, granted = (different.found or "").partition(", granted to ")
    if found.endswith("off"):
        yield sql.SQL(f"ALTER TABLE {different.object} ENABLE ROW LEVEL SECURITY")
    if granted:
        yield sql.SQL(f"REVOKE ALL ON {different.object} FROM {granted}")


def _column(different: Difference) -> Iterator[sql.Composed]:
    if different.found is None or different.wanted is None or " generated " in different.found + different.wanted:
        return
    table, _, column = different.object.partition(".")
    old_type, old_not_null, old_default = column_parts(different.found)
    new_type, not_null, default = column_parts(different.wanted)
    alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} ").format(sql.Identifier("public", table), sql.Identifier(column))
    if old_type != new_type:
        if not is_lossless(old_type, new_type):
            return
        yield alter + sql.SQL(f"TYPE {new_type}")
    if old_default != default:
        yield alter + sql.SQL(f"SET DEFAULT {default}" if default else "DROP DEFAULT")
    if old_not_null != not_null:
        yield alter + sql.SQL("SET NOT NULL" if not_null else "DROP NOT NULL")


def _constraint(different: Difference) -> Iterator[sql.Composed]:
    table, _, name = different.object.partition(".")
    if different.wanted is None:
        return
    alter, constraint = sql.SQL("ALTER TABLE {} ").format(sql.Identifier("public", table)), sql.Identifier(name)
    # A foreign key is made for new rows, which it then refuses whatever the old ones hold. The next round checks those,
    # in a transaction that lets clients go on.
    unchecked = f"{different.wanted} NOT VALID"
    if different.found == unchecked:
        yield alter + sql.SQL("VALIDATE CONSTRAINT {}").format(constraint)
        return
    if different.found is not None:
        yield alter + sql.SQL("DROP CONSTRAINT {}").format(constraint)
    definition = unchecked if different.wanted.startswith("FOREIGN KEY ") else different.wanted
    yield alter + sql.SQL("ADD CONSTRAINT {} ").format(constraint) + sql.SQL(definition)


def _policy(different: Difference) -> Iterator[sql.Composed]:
    table, _, name = different.object.partition(".")
    policy, on = sql.Identifier(name), sql.Identifier("public", table)
    if different.found is not None:
        yield sql.SQL("DROP POLICY {} ON {}").format(policy, on)
    if different.wanted is None:
        return
    parts = POLICY.fullmatch(different.wanted)
    if parts is None:
        return
    text = f" AS {'RESTRICTIVE' if parts['restrictive'] else 'PERMISSIVE'} FOR {parts['command']} TO {parts['roles']}"
    text += f" USING ({parts['using']})" if parts["using"] else ""
    text += f" WITH CHECK ({parts['check']})" if parts["check"] else ""
    yield sql.SQL("CREATE POLICY {} ON {}").format(policy, on) + sql.SQL(text)


def _trigger(different: Difference) -> Iterator[sql.Composed]:
    """Drop a trigger; the statement of the files that follows creates it."""
    table, _, name = different.object.partition(".")
    yield sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(name), sql.Identifier("public", table))


def _grant(different: Difference) -> Iterator[Statement]:
    parts = GRANT.fullmatch(different.object)
    if parts is None:
        return
    have, want = (set(text.split(", ")) if text else set() for text in (different.found, different.wanted))
    what, name, column = parts["what"], parts["name"], ""
    if what == "column":
        table, _, column = name.partition(".")
        what, name, column = "table", table, f' ("{column}")'
    target = f'{what} public."{name}"' if what == "table" else f"{what} public.{name}"
    for verb, preposition, privileges in (("REVOKE", "FROM", have - want), ("GRANT", "TO", want - have)):
        for privilege in sorted(privileges):
            yield sql.SQL(f"{verb} {privilege}{column} ON {target} {preposition} {parts['role']}")


_BUILDERS: dict[str, Callable[[Difference], Iterator[Statement]]] = {
    "table": _table,
    "replica identity": _replica_identity,
    "partition": _partition,
    "column": _column,
    "constraint": _constraint,
    "policy": _policy,
    "trigger": _trigger,
    "grant": _grant,
}
