"""Mutation tests: each policy, grant and option is broken in turn, and the table must detect it."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.access.matrix import all_cells, probe
from tests.access.sample import HERE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.access.matrix import Cell
    from tests.access.sample import Connection


class Break(NamedTuple):
    """A statement that breaks the access to an object, and the cell that should show it first."""

    kind: str
    statement: str
    object_name: str
    command: str
    part: str


def detected(connection: Connection, broken: Break, cells: Sequence[Cell], sound: dict[Cell, str]) -> bool:
    """Return whether any cell differs from the unbroken database; the cells that should differ are probed first."""
    group = attrgetter("command", "part", "row")
    by_likelihood = sorted(
        cells,
        key=lambda it: (it.command != broken.command, it.part != broken.part, it.row != "live", group(it)),
    )
    groups = [list(members) for _, members in groupby(by_likelihood, group)]
    with connection.transaction(force_rollback=True):
        connection.execute(broken.statement.encode())
        return any(probe(connection, members) != [sound[cell] for cell in members] for members in groups)


@pytest.fixture(scope="module")
def sound(populated: Connection) -> dict[Cell, str]:
    """Return the access of every cell in the unbroken database."""
    cells = all_cells(populated)
    return dict(zip(cells, probe(populated, cells), strict=True))


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("policies", 30),
        ("row-level security", 12),
        ("security_invoker", 4),
        ("grants", 400),
        ("column grants", 300),
    ],
)
def test_table_detects_broken_access(connection: Connection, sound: dict[Cell, str], kind: str, least: int) -> None:
    every_break = connection.execute((HERE / "breaks.sql").read_bytes())
    breaks = [broken for broken in map(Break._make, every_break) if broken.kind == kind]
    assert len(breaks) >= least
    of: dict[str, list[Cell]] = defaultdict(list)
    for cell in sound:
        of[cell.object_name.partition(" (")[0]].append(cell)
    undetected = [it.statement for it in breaks if not detected(connection, it, of[it.object_name], sound)]
    assert not undetected, "\n".join(undetected)
