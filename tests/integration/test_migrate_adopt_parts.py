"""`migrate adopt` of a database in which psql stopped inside 4.0.0, between two files or within one."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.commands import Cli
from tests.integration.database import add_pair, run
from usage_worker.errors import ObstacleError
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import EMPTY, Runner, discover, schema_version
from usage_worker.migrate.adoption import adopt, examine
from usage_worker.migrate.files import split_statements
from usage_worker.settings import Settings
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Postgres

FILES = discover()
LAST_OF_VERSIONS = {it.version: it for it in FILES}.values()


def psql(url: str, postgres: Postgres, *files: Path) -> None:
    arguments = [argument for file in files for argument in ("-f", str(file))]
    command = [str(postgres.bin_dir / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", url, *arguments]
    subprocess.run(command, check=True, capture_output=True)


def run_files(url: str, postgres: Postgres, last: int) -> None:
    """Run the files up to a number with psql; a row was counted before 4.0.0."""
    psql(url, postgres, *(it.up for it in FILES if it.number <= 5))
    add_pair(url)
    run(url, "UPDATE public.user_agents SET usage_count = 7, success_count = 7, avg_response_time_ms = 80")
    psql(url, postgres, *(it.up for it in FILES if 5 < it.number <= last))


def assert_whole(url: str) -> None:
    """Check that all changes of 4.0.0 were made, those of rows included."""
    assert Runner(url).verify() == []
    with Store(url) as store:
        assert reconcile(store, Settings(DATABASE_URL=url)).differences == []
    opening = "SELECT usage_count, response_time_total_ms FROM public.usage_daily WHERE day = '1970-01-01'"
    assert run(url, opening) == [(7, 560)]


def test_each_file_is_recognized(empty_database: str, postgres: Postgres) -> None:
    run_files(empty_database, postgres, 5)
    assert str(examine(empty_database)) == "3.0.0"
    for migration in FILES[5:]:
        psql(empty_database, postgres, migration.up)
        found = examine(empty_database)
        assert found.last == migration
        # Only a file that may have stopped within its changes of rows is named.
        uncertain = not migration.transactional and migration not in LAST_OF_VERSIONS
        named = [it.object for it in found.differs if "usage_migrations" not in it.object]
        assert named == ([migration.label] if uncertain else [])
    run(empty_database, "ALTER TABLE public.usage_events ALTER tokens SET DEFAULT 5")
    assert str(examine(empty_database)) == FILES[-1].version


def test_stopped_between_files(empty_database: str, postgres: Postgres, tmp_path: Path) -> None:
    run_files(empty_database, postgres, 17)
    cli = Cli(tmp_path, DATABASE_URL=empty_database)
    assert "adopted as 3.0.0 and 4.0.0 up to 017_usage_maintenance; " in cli.error_line("migrate adopt")
    with pytest.raises(
        ObstacleError, match=r"columns of 3\.0\.0, not of 4\.0\.0; its last migration is 017_usage_main"
    ):
        examine(empty_database, "4.0.0")
    assert adopt(empty_database, "3.0.0").left == []
    assert Runner(empty_database).verify() == []
    assert [it.number for it in Runner(empty_database).up()] == [it.number for it in FILES[17:]]
    assert_whole(empty_database)
    Runner(empty_database).down(EMPTY)
    assert schema_version(empty_database) is None


@pytest.mark.parametrize("last", [6, 13, 15, 20])
def test_stopped_within_a_file(empty_database: str, postgres: Postgres, tmp_path: Path, last: int) -> None:
    run_files(empty_database, postgres, last - 1)
    migration = FILES[last - 1]
    statements = split_statements(migration.up_sql)
    half = tmp_path / "half.sql"
    half.write_text(";\n".join(statements[: max(1, len(statements) // 2)]) + ";\n")
    psql(empty_database, postgres, half)
    found = examine(empty_database)
    assert found.last == migration
    assert ("migration", migration.label) in {(it.kind, it.object) for it in found.differs}
    # What is only created is completed; changes of rows are repeated by `up`.
    repeated = [] if migration.transactional else [migration.label]
    assert [it.object for it in adopt(empty_database).left] == repeated
    assert [it.label for it in Runner(empty_database).up()][: len(repeated)] == repeated
    assert_whole(empty_database)
