"""docs/access.md equals the access that the roles have in a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.access.matrix import all_cells, differences, objects
from tests.access.sample import ROLES
from tests.access.table import read_table, written_columns

if TYPE_CHECKING:
    from tests.access.sample import Connection


def test_every_cell_matches_document(connection: Connection) -> None:
    table = read_table()
    assert differences(connection, table, all_cells(connection)) == []
    assert [line for number, line in enumerate(table.lines) if number not in table.used] == []


def test_columns_of_ingest_match_document(connection: Connection) -> None:
    columns = """
        SELECT array_agg(attname::text) FROM pg_attribute
         WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND has_column_privilege(%s, attrelid, attnum, %s)
    """
    for relation in (it for it in objects(connection) if it.kind in ("table", "view")):
        for verb, privilege in (("reads", "SELECT"), ("adds", "INSERT"), ("changes", "UPDATE")):
            row = connection.execute(columns, [relation.oid, ROLES["ingest"].role, privilege]).fetchone()
            found = set((row and row[0]) or ())
            listed = written_columns(relation.name, verb)
            assert found == set(listed or (found and relation.parts)), (relation.name, verb)
