"""A table has 1,600 column numbers, none of which is reused: `migrate up` refuses to begin when they run out."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.database import run, schema
from usage_worker.errors import ObstacleError
from usage_worker.migrate import EMPTY, Runner, discover, schema_version
from usage_worker.migrate.script import script

if TYPE_CHECKING:
    from tests.servers import Postgres

USED = "SELECT relnatts FROM pg_class WHERE oid = 'public.user_agents'::regclass"
# At most a hundred columns at a time, so that the last number can be used, too.
USE_UP = """
    DO $$
    DECLARE
        v_adds text;
        v_drops text;
    BEGIN
        LOOP
            SELECT string_agg(format('ADD dropped%s int', place), ', '),
                   string_agg(format('DROP dropped%s', place), ', ')
              INTO v_adds, v_drops
              FROM pg_class, generate_series(1, least(100, {used} - relnatts)) AS place
             WHERE oid = 'public.user_agents'::regclass;
            EXIT WHEN v_adds IS NULL;
            EXECUTE 'ALTER TABLE public.user_agents ' || v_adds;
            EXECUTE 'ALTER TABLE public.user_agents ' || v_drops;
        END LOOP;
    END
    $$
"""


@pytest.mark.parametrize(
    ("start", "target", "needed"), [("2.0.0", "3.0.0", 43), ("2.0.0", "4.0.0", 46), ("3.0.0", "4.0.0", 3)]
)
def test_up_refuses_when_column_numbers_run_out(
    empty_database: str, postgres: Postgres, start: str, target: str, needed: int
) -> None:
    runner = Runner(empty_database)
    runner.up(start)
    used = 1601 - needed
    run(empty_database, USE_UP.format(used=used))
    before = schema(empty_database)
    line = (
        f"table user_agents has used {used} of 1600 column numbers, dropped columns included, and {needed} more"
        " are needed: dump and restore the table and run migrate up again, nothing was changed"
    )
    with pytest.raises(ObstacleError) as refused:
        runner.up(target)
    assert str(refused.value).endswith(line)
    command = [str(postgres.bin_dir / "psql"), "-qX", "-d", empty_database]
    text = script(discover(), start, target)
    assert line in subprocess.run(command, input=text, check=False, capture_output=True, text=True).stderr
    assert schema(empty_database) == before
    assert schema_version(empty_database) == start


def test_last_column_numbers_can_be_used(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    run(empty_database, USE_UP.format(used=1600 - 46))
    runner.up("4.0.0")
    assert run(empty_database, USED) == [(1600,)]
    assert runner.verify() == []


def test_up_counts_column_numbers_of_table_kept_by_rollback(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    run(
        empty_database,
        """
        WITH u AS (INSERT INTO auth.users (email) VALUES ('a') RETURNING id),
            a AS (INSERT INTO public.agents (name) VALUES ('a') RETURNING id)
        INSERT INTO public.user_agents (user_id, agent_id) SELECT u.id, a.id FROM u, a
        """,
    )
    run(empty_database, USE_UP.format(used=1558))
    runner.down(EMPTY)
    with pytest.raises(ObstacleError, match="table user_agents_kept_2_0_0 has used 1558 of 1600 column numbers"):
        runner.up("3.0.0")
    assert schema_version(empty_database) is None
