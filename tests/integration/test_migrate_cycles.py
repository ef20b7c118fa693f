"""Up and down again and again: PostgreSQL gives a table 1,600 column numbers, and each way to 3.0.0 uses up 43."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.integration.database import add_pair, run, schema
from usage_worker.errors import MigrationError
from usage_worker.migrate import Runner, discover
from usage_worker.migrate.files import split_statements

if TYPE_CHECKING:
    from pathlib import Path

CYCLES = 40
COLUMN_NUMBERS = "SELECT relnatts FROM pg_class WHERE oid = 'public.user_agents'::regclass"
ROWS = "SELECT u::text FROM public.user_agents AS u ORDER BY id"
# So many columns come and go, and the next way up makes the table anew.
WEAR = """
    DO $$
    BEGIN
        EXECUTE (SELECT 'ALTER TABLE public.user_agents ' || string_agg(format('ADD worn_%s int', n), ', ')
                 FROM generate_series(1, 800) AS n);
        EXECUTE (SELECT 'ALTER TABLE public.user_agents ' || string_agg(format('DROP worn_%s', n), ', ')
                 FROM generate_series(1, 800) AS n);
    END
    $$
"""


def test_forty_cycles_keep_schema_and_values(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    at_2 = schema(empty_database)
    runner.up("3.0.0")
    at_3 = schema(empty_database)
    rows = [add_pair(empty_database) for _ in range(5)]
    run(
        empty_database,
        """
        UPDATE public.user_agents SET custom_name = 'mine', tags = '{a,b}', total_cost_usd = 0.0000000001,
            message_count = 7, deleted_at = '2024-02-29 23:59:59.999999+00', settings = '{"n": 1.50}', user_rating = 4.5
        WHERE id = ANY (%s::uuid[])
        """,
        rows[:4],
    )
    before = run(empty_database, ROWS)
    highest = 0
    for _ in range(CYCLES):
        runner.down("2.0.0")
        assert schema(empty_database) == at_2
        runner.up("3.0.0")
        highest = max(highest, run(empty_database, COLUMN_NUMBERS)[0][0])
    assert highest < 900
    assert runner.verify() == []
    assert schema(empty_database) == at_3
    assert run(empty_database, ROWS) == before


def test_rebuilt_table_keeps_its_dependents(empty_database: str) -> None:
    """What 2.0.0 made is compared by the catalogue; this is what an owner may have added."""
    runner = Runner(empty_database)
    runner.up("2.0.0")
    row_id = add_pair(empty_database)
    run(
        empty_database,
        """
        CREATE TABLE public.invoices (pair uuid CONSTRAINT of_pair REFERENCES public.user_agents ON DELETE SET NULL);
        CREATE INDEX "Of Theirs" ON public.user_agents (usage_count) WHERE is_active;
        CREATE FUNCTION public.noticed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER noticed BEFORE UPDATE ON public.user_agents FOR EACH ROW EXECUTE FUNCTION public.noticed();
        CREATE POLICY "Not On Mondays" ON public.user_agents AS RESTRICTIVE FOR UPDATE TO anon, service_role
            USING (is_active) WITH CHECK (NOT is_user_copy);
        CREATE POLICY everybody ON public.user_agents FOR DELETE USING (false);
        GRANT TRIGGER ON public.user_agents TO PUBLIC;
        GRANT SELECT (agent_id, usage_count) ON public.user_agents TO anon;
        COMMENT ON TABLE public.user_agents IS 'who''s agents';
        COMMENT ON COLUMN public.user_agents.metadata IS 'anything';
        ALTER TABLE public.user_agents SET (autovacuum_vacuum_scale_factor = 0.02);
        SET client_min_messages = error;
        CREATE PUBLICATION feed FOR TABLE public.user_agents (id, "user_id") WHERE (is_active);
        """,
    )
    run(empty_database, "INSERT INTO public.invoices VALUES (%s)", row_id)
    by_hand = """
        SELECT obj_description(c.oid), col_description(c.oid, 10), reloptions, relacl::text, relowner, relhastriggers,
            (SELECT format('%s %s', attnames, rowfilter) FROM pg_publication_tables),
            (SELECT count(*) FROM public.invoices JOIN public.user_agents AS u ON pair = u.id)
        FROM pg_class AS c WHERE c.oid = 'public.user_agents'::regclass
    """
    facts, by_hand_before, rows = schema(empty_database), run(empty_database, by_hand), run(empty_database, ROWS)
    run(empty_database, WEAR)
    runner.up("3.0.0")
    assert run(empty_database, COLUMN_NUMBERS) == [(55,)]
    runner.down("2.0.0")
    assert schema(empty_database) == facts
    assert run(empty_database, by_hand) == by_hand_before
    assert run(empty_database, ROWS) == rows


def test_unmovable_dependents_stop_table_rebuild(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    add_pair(empty_database)
    rows = run(empty_database, ROWS)
    run(empty_database, WEAR + ";CREATE VIEW public.mine AS SELECT id FROM public.user_agents")
    at_2 = schema(empty_database)
    with pytest.raises(MigrationError, match="made anew, but view mine depends on table user_agents; drop what"):
        runner.up("3.0.0")
    assert run(empty_database, ROWS) == rows
    run(empty_database, "UPDATE public.user_agents SET usage_count = 5")
    runner.down("2.0.0")
    assert schema(empty_database) == at_2
    run(empty_database, "DROP VIEW public.mine")
    runner.up("3.0.0")
    assert runner.verify() == []
    assert run(empty_database, "SELECT usage_count FROM public.user_agents") == [(5,)]


def test_resumes_after_any_interruption_of_table_rebuild(empty_database: str, tmp_path: Path) -> None:
    files = shutil.copytree(discover()[0].up.parent, tmp_path / "migrations")
    file = files / "003_user_agents_columns.up.sql"
    text = file.read_text()
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("--"))
    statements = split_statements(text)
    swapped = next(number for number, statement in enumerate(statements) if "DO $swap$" in statement) + 1
    sound = Runner(empty_database)
    sound.up("3.0.0")
    at_3 = schema(empty_database)
    sound.down("2.0.0")
    at_2 = schema(empty_database)
    row_id = add_pair(empty_database)
    for stop in range(swapped + 1):
        run(empty_database, WEAR)
        file.write_text(header + ";\n".join([*statements[:stop], "SELECT 1 / 0", *statements[stop:]]) + ";\n")
        with pytest.raises(MigrationError, match="division by zero"):
            Runner(empty_database, files).up("3.0.0")
        assert (run(empty_database, COLUMN_NUMBERS)[0][0] < 800) is (stop == swapped)
        run(empty_database, "UPDATE public.user_agents SET usage_count = %s WHERE id = %s", stop, row_id)
        if stop % 2:
            sound.down("2.0.0")
            assert schema(empty_database) == at_2
        sound.up("3.0.0")
        assert schema(empty_database) == at_3
        assert run(empty_database, "SELECT id::text, usage_count FROM public.user_agents") == [(row_id, stop)]
        sound.down("2.0.0")
