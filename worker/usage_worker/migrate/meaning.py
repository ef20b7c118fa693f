"""Objects with other names that are equivalent to one of ours: they are renamed instead of being created twice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import sql

from usage_worker.migrate.definitions import POLICY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usage_worker.migrate.verify import Difference

_INDEX_NAME = re.compile(r"INDEX \S+ ON ")
_EQUATION = re.compile(r"(\w+)=(\w+)")
# Without parentheses inside, the outer ones are a pair.
_ENCLOSED = re.compile(r"\([^()]*\)")


def renames(found: Sequence[Difference]) -> Iterator[sql.Composed]:
    """Yield the statements that give equivalent constraints, indexes and policies our names.

    Where a policy of our name exists already, the equivalent one is dropped.
    """
    for theirs in found:
        if theirs.named or theirs.kind not in _RENAMES:
            continue
        for ours in found:
            if ours.kind == theirs.kind and ours.named and ours.wanted and _same(ours, theirs):
                yield from _RENAMES[ours.kind](ours, theirs)
                break


def _policy_meaning(definition: str) -> tuple[str | None, ...] | None:
    """Reduce a policy to what decides about a row, independently of how it is written.

    auth.uid() is NULL without a user, so a policy for everyone that needs it is equivalent to one for `authenticated`.
    """
    parts = POLICY.fullmatch(definition)
    if parts is None:
        return None
    using = _condition(parts["using"])
    check = _condition(parts["check"]) or ("" if parts["command"] in {"select", "delete"} else using)
    roles = parts["roles"]
    if roles == "public" and "uid" in using + check:
        roles = "authenticated"
    return parts["restrictive"], parts["command"], roles, using, check


def _condition(text: str | None) -> str:
    """Normalize a condition: without sub-selects and outer parentheses, and with the sides of an equation in order.

    Inner parentheses stay: `a AND (b OR c)` is not `(a AND b) OR c`.
    """
    if text is None:
        return ""
    text = text.replace("( SELECT auth.uid() AS uid)", "uid").replace("auth.uid()", "uid")
    bare = re.sub(r"\s", "", text)
    while _ENCLOSED.fullmatch(bare):
        bare = bare[1:-1]
    sides = _EQUATION.fullmatch(bare)
    return "=".join(sorted(sides.groups())) if sides else bare


def _same(ours: Difference, theirs: Difference) -> bool:
    wanted, found = str(ours.wanted), str(theirs.found)
    if ours.kind == "index":
        return ours.found is None and _INDEX_NAME.sub("", wanted) == _INDEX_NAME.sub("", found)
    if ours.object.partition(".")[0] != theirs.object.partition(".")[0]:
        return False
    if ours.kind == "policy":
        return _policy_meaning(wanted) == _policy_meaning(found)
    return ours.found is None and wanted == found


def _rename_index(ours: Difference, theirs: Difference) -> Iterator[sql.Composed]:
    names = sql.Identifier("public", theirs.object), sql.Identifier(ours.object)
    yield sql.SQL("ALTER INDEX {} RENAME TO {}").format(*names)


def _rename_constraint(ours: Difference, theirs: Difference) -> Iterator[sql.Composed]:
    table, _, name = theirs.object.partition(".")
    names = sql.Identifier("public", table), sql.Identifier(name), sql.Identifier(ours.object.partition(".")[2])
    yield sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(*names)


def _rename_policy(ours: Difference, theirs: Difference) -> Iterator[sql.Composed]:
    table, _, name = theirs.object.partition(".")
    policy, on = sql.Identifier(name), sql.Identifier("public", table)
    if ours.found is None:
        name = ours.object.partition(".")[2]
        yield sql.SQL("ALTER POLICY {} ON {} RENAME TO {}").format(policy, on, sql.Identifier(name))
    else:
        yield sql.SQL("DROP POLICY {} ON {}").format(policy, on)


# Constraints first: the index of a constraint is renamed with it.
_RENAMES = {"constraint": _rename_constraint, "index": _rename_index, "policy": _rename_policy}
