"""The script of `migrate sql`, run by psql, has the same result as the runner."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import Cli
from tests.integration.database import run, schema
from usage_worker.errors import MigrationError
from usage_worker.migrate import EMPTY, Runner, discover, latest_version, schema_version
from usage_worker.migrate.connection import LOCK_KEY
from usage_worker.migrate.script import script

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers import Postgres

MIGRATIONS = discover()
STEPS = list(pairwise([EMPTY, *dict.fromkeys(migration.version for migration in MIGRATIONS)]))
JOURNAL_ROWS = "SELECT number, name, version, sha256, state FROM public.usage_migrations ORDER BY number"
# The catalogue that is compared does not include the journal.
JOURNAL_TABLE = """
    SELECT relacl::text, relrowsecurity,
        (SELECT array_agg(format('%s %s %s', attname, atttypid::regtype, attnotnull) ORDER BY attnum)
         FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0),
        (SELECT array_agg(pg_get_constraintdef(k.oid) ORDER BY conname)
         FROM pg_constraint AS k WHERE conrelid = c.oid AND contype <> 'n')
    FROM pg_class AS c WHERE oid = 'public.usage_migrations'::regclass
"""


@pytest.fixture
def psql(postgres: Postgres, empty_database: str, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that runs a script in the empty database and returns the errors of psql."""

    def run_script(text: str) -> str:
        file = tmp_path / "script.sql"
        file.write_text(text)
        # Without ON_ERROR_STOP, which users may forget: the script sets it itself.
        options = ["-qX", "-d", empty_database, "-f", str(file)]
        done = subprocess.run([postgres.bin_dir / "psql", *options], check=False, capture_output=True, text=True)
        assert (done.returncode == 0) is (done.stderr == ""), done
        # The session outlives psql by a moment, and holds the migration lock until it ends.
        open_sessions = "SELECT FROM pg_stat_activity WHERE application_name = 'psql' AND datname = current_database()"
        eventually(lambda: not run(empty_database, open_sessions))
        return done.stderr

    return run_script


def test_script_migrates_empty_database(empty_database: str, database: str, psql: Callable[[str], str]) -> None:
    assert not psql(script(MIGRATIONS, EMPTY, latest_version()))
    assert schema(empty_database) == schema(database)
    for query in (JOURNAL_TABLE, JOURNAL_ROWS):
        assert run(empty_database, query) == run(database, query)
    runner = Runner(empty_database)
    status = runner.status()
    assert status.version == latest_version()
    assert {migration.state for migration in status.migrations} == {"applied"}
    assert runner.verify() == []
    assert runner.up() == []


def test_script_down_restores_schema_of_runner(empty_database: str, psql: Callable[[str], str]) -> None:
    runner = Runner(empty_database)
    seen = {EMPTY: schema(empty_database)}
    for _, version in STEPS:
        runner.up(version)
        seen[version] = schema(empty_database)
    for lower, upper in reversed(STEPS):
        assert not psql(script(MIGRATIONS, upper, lower))
        assert schema(empty_database) == seen[lower]
        assert schema_version(empty_database) == (None if lower == EMPTY else lower)
    assert run(empty_database, JOURNAL_ROWS) == []


def test_one_jump_equals_single_steps(empty_database: str, psql: Callable[[str], str]) -> None:
    runner = Runner(empty_database)
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        runner.up(version)
    stepwise = schema(empty_database)
    runner.down("1.0.0")
    assert not psql(script(MIGRATIONS, "1.0.0", "3.0.0"))
    assert schema(empty_database) == stepwise
    assert runner.verify() == []


def test_runner_continues_after_script(empty_database: str, tmp_path: Path, psql: Callable[[str], str]) -> None:
    files = shutil.copytree(MIGRATIONS[0].up.parent, tmp_path / "migrations")
    for label in ("002_user_agents", "004_user_agents_indexes"):
        broken = files / f"{label}.up.sql"
        sound = broken.read_text()
        broken.write_text(sound + "SELECT 1 / 0")
        runner = Runner(empty_database)
        assert "division by zero" in psql(script(discover(files), schema_version(empty_database) or EMPTY, "3.0.0"))
        states = {f"{m.number:03d}_{m.name}": m.state for m in runner.status().migrations}
        assert states[label] == "running"
        broken.write_text(sound)
        runner.up(next(m.version for m in MIGRATIONS if m.label == label))
        assert runner.verify() == []


def test_script_refuses_database_at_other_version(empty_database: str, psql: Callable[[str], str]) -> None:
    Runner(empty_database).up("1.0.0")
    before = schema(empty_database)
    for start, target in ((EMPTY, "3.0.0"), ("2.0.0", "3.0.0"), ("2.0.0", EMPTY), ("3.0.0", "2.0.0")):
        assert f"not what this script starts from, which is {start}" in psql(script(MIGRATIONS, start, target))
    run(empty_database, "UPDATE public.usage_migrations SET sha256 = 'edited'")
    assert "not what this script starts from" in psql(script(MIGRATIONS, "1.0.0", "2.0.0"))
    assert schema(empty_database) == before


def test_script_refuses_to_run_beside_runner(empty_database: str, psql: Callable[[str], str]) -> None:
    with psycopg.connect(empty_database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        assert "another migration of this database is running" in psql(script(MIGRATIONS, EMPTY, "1.0.0"))
    assert schema_version(empty_database) is None


def test_script_keeps_directives_of_files() -> None:
    text = script(MIGRATIONS, EMPTY, latest_version())
    _, *steps = re.split(r"^-- \d{3}_\w+ \(up\)$", text, flags=re.MULTILINE)
    for migration, step in zip(MIGRATIONS, steps, strict=True):
        assert step.lstrip().startswith(f"SET lock_timeout = '{migration.lock_timeout}';")
        in_transaction = migration.up_sql in step.partition("\nBEGIN;\n")[2] and step.rstrip().endswith("\nCOMMIT;")
        assert in_transaction is migration.transactional
        assert migration.up_sql.strip() in step


def test_command_prints_script_without_database(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    assert cli.run("migrate", "sql").stdout == script(MIGRATIONS, EMPTY, latest_version())
    down = cli.run("migrate", "sql", "--from", "3.0.0", "--to", "2.0.0")
    assert down.stdout == script(MIGRATIONS, "3.0.0", "2.0.0")
    assert "no version 9.9.9; known are 1.0.0" in cli.error_line("migrate sql --to 9.9.9")


def test_unknown_versions_are_refused() -> None:
    for start, target in (("2.5.0", "3.0.0"), ("1.0.0", "new")):
        with pytest.raises(MigrationError, match="there is no version"):
            script(MIGRATIONS, start, target)
