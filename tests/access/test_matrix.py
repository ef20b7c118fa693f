"""docs/access.md says what is: each cell is tried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.access.matrix import all_cells, differences
from tests.access.table import read_table

if TYPE_CHECKING:
    from tests.access.world import Connection


def test_every_cell_matches_document(world: Connection) -> None:
    table = read_table()
    assert differences(world, table, all_cells(world)) == []
    assert [line for number, line in enumerate(table.lines) if number not in table.used] == []
