"""docs/personal-data.md names every place of a user's id or words, and what a deleted account leaves behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from tests.access.sample import OWNER, Connection, populate
from tests.integration.database import run
from usage_worker.migrate import EMPTY, Runner

DOCUMENT = Path(__file__).parents[2] / "docs" / "personal-data.md"
KINDS = {"id", "words", "derived", "none"}
OUTCOMES = {"deleted", "set to null", "kept"}
# Columns of the types that can hold an id or words, as vectors of texts do. A partition is part of its table.
COLUMNS = r"""
    SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname, a.attname::text
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
      LEFT JOIN pg_attribute AS a
        ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
       AND format_type(a.atttypid, NULL) !~ '^(smallint|integer|bigint|numeric|double|real(?!\[)|boolean|date|time)'
     WHERE n.nspname IN ('public', 'auth') AND c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
"""
WORDS = "what the owner wrote"
# Columns that take any words.
WRITE = """
    UPDATE public.user_agents SET
        custom_name = %(w)s, custom_description = %(w)s, custom_avatar = %(w)s, custom_color = %(w)s,
        custom_system_prompt = %(w)s, folder = %(w)s, tags = ARRAY[%(w)s], notes = %(w)s, quick_notes = %(w)s,
        metadata = words, settings = words, preferences = words, ui_config = words, source_details = words,
        share_settings = words, notification_settings = words
      FROM jsonb_build_object('words', %(w)s::text) AS words
"""


class Place(NamedTuple):
    """What a column holds, and what happens to it when the account is deleted."""

    kind: str
    outcome: str


def documented() -> dict[tuple[str, str], Place]:
    """Return the places of the document by table and column."""
    places: dict[tuple[str, str], Place] = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            for column in re.findall(r"`(\w+)`", cells[1]):
                key = (cells[0].strip("`"), column)
                assert key not in places, key
                places[key] = Place(cells[2], cells[3])
                assert places[key].kind in KINDS
                assert places[key].outcome in OUTCOMES
    return places


def missing(url: str) -> set[tuple[str, str | None]]:
    """Return the columns of the database, and tables without such columns, that the document does not name."""
    places = documented()
    tables = set(re.findall(r"^\| `([\w.]+)`", DOCUMENT.read_text(), re.MULTILINE))
    found = {(re.sub(r"_kept_\d_\d_\d$", "", table), column) for table, column in run(url, COLUMNS)}
    return {
        (table, column) for table, column in found if (table, column) not in places and (column or table not in tables)
    }


def places_of(connection: Connection, value: str) -> set[tuple[str, str]]:
    """Return the columns in which the value stands."""
    return {
        (table, column)
        for table, column in documented()
        if connection.execute(
            f"SELECT FROM {table if '.' in table else 'public.' + table} WHERE {column}::text LIKE %s LIMIT 1".encode(),
            [f"%{value}%"],
        ).rowcount
    }


def test_every_column_is_documented(database: str) -> None:
    assert missing(database) == set()
    assert set(documented()) <= set(run(database, COLUMNS))
    run(database, "CREATE TABLE public.new_table (number int); ALTER TABLE public.usage_daily ADD remark text")
    assert missing(database) == {("new_table", None), ("usage_daily", "remark")}


@pytest.mark.usefixtures("users")
def test_every_column_kept_aside_is_documented(database: str) -> None:
    for version in ("3.0.0", "2.0.0", "1.0.0", EMPTY):
        Runner(database).down(version)
        assert missing(database) == set(), version
    aside = run(database, "SELECT relname FROM pg_class WHERE relname ~ '_kept_' AND relkind IN ('r', 'p')")
    assert len(aside) > 1


def test_deleted_account_remains_only_where_documented(database: str) -> None:
    places = documented()
    with psycopg.connect(database) as connection:
        populate(connection)
        connection.execute("SELECT set_config('request.jwt.claims', %s, true)", [f'{{"sub": "{OWNER}"}}'])
        connection.execute(WRITE, {"w": WORDS})
        connection.execute("SELECT set_config('request.jwt.claims', '', true)")
        written = places_of(connection, WORDS)
        identified = places_of(connection, str(OWNER))
        assert {places[it].kind for it in identified - {("user_agents", "id")}} == {"id"}
        assert written == {it for it in places if it[0] == "user_agents" and places[it].kind == "words"}
        connection.execute("DELETE FROM public.agents WHERE created_by IS NULL")
        connection.execute("DELETE FROM auth.users WHERE id = %s", [OWNER])
        assert places_of(connection, WORDS) == set()
        remaining = places_of(connection, str(OWNER))
        assert {places[it].outcome for it in remaining} == {"kept"}
        assert ("user_agent_history", "actor") in remaining
        connection.rollback()
