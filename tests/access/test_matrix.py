"""docs/access.md says what is: each cell is tried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.access.matrix import differences, every_cell
from tests.access.table import columns, read_table

if TYPE_CHECKING:
    from tests.access.world import Connection


def test_every_cell(world: Connection) -> None:
    table = read_table()
    assert differences(world, table, every_cell(world)) == []
    assert [line for number, line in enumerate(table.lines) if number not in table.used] == []


def test_every_column_is_written_by_people_or_counted(world: Connection) -> None:
    found = world.execute("SELECT parts FROM objects WHERE name = 'user_agents'").fetchone()
    assert found
    assert sorted(columns("written by people") + columns("counted")) == sorted(found[0])
