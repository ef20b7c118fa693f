"""docs/access.md equals the access that the roles have in a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.access.matrix import all_cells, differences
from tests.access.table import read_table

if TYPE_CHECKING:
    from tests.access.sample import Connection


def test_every_cell_matches_document(connection: Connection) -> None:
    table = read_table()
    assert differences(connection, table, all_cells(connection)) == []
    assert [line for number, line in enumerate(table.lines) if number not in table.used] == []
