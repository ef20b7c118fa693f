"""Kills, failing statements, edited files and invalid targets: a migration resumes, or refuses to run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import Cli
from tests.integration.database import add_pair, interrupted, run, schema
from tests.integration.interruptions import chosen
from usage_worker.errors import MigrationError, ObstacleError, SchemaError, SettingsError, StoreUnavailableError
from usage_worker.migrate import Deviation, Runner, discover, schema_version
from usage_worker.migrate.connection import connect
from usage_worker.migrate.files import split_statements

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIGRATIONS = discover()[0].up.parent


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a copy of the migrations, which a test may change."""
    return shutil.copytree(MIGRATIONS, tmp_path / "migrations")


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(("label", "only"), [("003_user_agents_columns", ""), ("004_user_agents_indexes", "added_at")])
def test_resumes_after_any_interruption(
    empty_database: str, files: Path, label: str, only: str, direction: str
) -> None:
    """A step outside a transaction may stop after any statement; either direction then completes it.

    Of 004 only the statements that replace an index are tried; the others only create or drop one.
    """
    sound = Runner(empty_database)
    sound.up("2.0.0")
    at_2 = schema(empty_database)
    sound.up("3.0.0")
    add_pair(empty_database)
    at_3 = schema(empty_database)
    file = files / f"{label}.{direction}.sql"
    text = file.read_text()
    for stop, broken in enumerate(chosen([broken for around, broken in interrupted(text) if only in around])):
        file.write_text(broken)
        if direction == "up":
            sound.down("2.0.0")
        with pytest.raises(MigrationError, match="division by zero"):
            _move(Runner(empty_database, files), direction)
        assert label in {f"{m.number:03d}_{m.name}" for m in sound.status().migrations if m.state == "failed"}
        if stop % 2:
            sound.down("2.0.0")
            assert schema(empty_database) == at_2
        sound.up("3.0.0")
        assert schema(empty_database) == at_3


def test_rollback_of_a_half_restored_upgrade_is_refused(empty_database: str, files: Path) -> None:
    """Values that a rollback had kept are moved back in chunks of 200; without the moved ones it would lose them."""
    runner = Runner(empty_database)
    runner.up("3.0.0")
    run(
        empty_database,
        """
        INSERT INTO auth.users (email) SELECT 'u' FROM generate_series(1, 500);
        INSERT INTO public.agents (name) VALUES ('a');
        INSERT INTO public.user_agents (user_id, agent_id, notes)
        SELECT u.id, a.id, 'mine' FROM auth.users u, public.agents a
        """,
    )
    runner.down("2.0.0")
    file = files / "003_user_agents_columns.up.sql"
    file.write_text(file.read_text().replace("        COMMIT;\n", "        COMMIT;\n        PERFORM 1 / 0;\n"))
    with pytest.raises(MigrationError, match="division by zero"):
        Runner(empty_database, files).up("3.0.0")
    assert 0 < run(empty_database, "SELECT count(*) FROM public.user_agents_kept_3_0_0")[0][0] < 500
    with pytest.raises(ObstacleError, match="may have restored a part of user_agents_kept_3_0_0: end it first"):
        runner.down("2.0.0")
    runner.up("3.0.0")
    assert run(empty_database, "SELECT count(*) FROM public.user_agents WHERE notes = 'mine'") == [(500,)]


def _move(runner: Runner, direction: str) -> None:
    if direction == "up":
        runner.up("3.0.0")
    else:
        runner.down("2.0.0")


def test_failed_migration_is_rolled_back_and_can_be_corrected(empty_database: str, files: Path) -> None:
    file = files / "002_user_agents.up.sql"
    sound = file.read_text()
    file.write_text(sound + "SELECT no_such_column FROM public.user_agents;")
    runner = Runner(empty_database, files)
    with pytest.raises(
        MigrationError, match=r"002_user_agents \(up\) failed: column .*no_such_column.* does not exist"
    ):
        runner.up()
    assert schema_version(empty_database) == "1.0.0"
    assert [migration.state for migration in runner.status().migrations][:3] == [
        "applied",
        "failed",
        "pending",
    ]
    file.write_text(sound)
    corrected = Runner(empty_database, files)
    corrected.up("2.0.0")
    assert corrected.verify() == []


def test_kill_during_index_build_is_repaired(empty_database: str, files: Path) -> None:
    for path in files.iterdir():
        if path.name > "004":
            path.unlink()
    Runner(empty_database, files).up("3.0.0")
    add_pair(empty_database)
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    with psycopg.connect(empty_database) as reader:
        # Building an index waits for this older transaction.
        reader.execute("SELECT FROM public.user_agents")
        program = "import sys; from usage_worker.migrate import Runner; Runner(sys.argv[1]).up('3.0.0')"
        migrating = subprocess.Popen([sys.executable, "-c", program, empty_database])
        eventually(lambda: run(empty_database, invalid)[0][0])
        migrating.send_signal(signal.SIGKILL)
        migrating.wait()
        unfinished = Deviation("migration", "004_user_agents_indexes", "is running; run it again")
        assert unfinished in Runner(empty_database).verify()
    Runner(empty_database).up("3.0.0")
    assert Runner(empty_database).verify() == []
    assert run(empty_database, invalid) == [(0,)]


def test_kill_inside_transaction_is_repaired(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("1.0.0")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with psycopg.connect(empty_database) as writer:
        writer.execute("INSERT INTO public.agents (name) VALUES ('uncommitted')")
        program = "import sys; from usage_worker.migrate import Runner; Runner(sys.argv[1]).up('2.0.0')"
        migrating = subprocess.Popen([sys.executable, "-c", program, empty_database])
        eventually(lambda: run(empty_database, waiting)[0][0])
        migrating.send_signal(signal.SIGKILL)
        migrating.wait()
    assert runner.status().migrations[1].state == "running"
    runner.up("2.0.0")
    assert runner.verify() == []


def test_edited_file_is_refused(empty_database: str, files: Path) -> None:
    runner = Runner(empty_database, files)
    runner.up("2.0.0")
    file = files / "001_identity.up.sql"
    file.write_text(file.read_text() + "-- edited")
    edited = Runner(empty_database, files)
    assert edited.status().migrations[0].state == "edited"
    for act in (edited.up, edited.verify, lambda: edited.down("1.0.0")):
        with pytest.raises(MigrationError, match=r"001_identity\.up\.sql was edited"):
            act()


def test_status_shows_partially_applied_version(empty_database: str, tmp_path: Path) -> None:
    runner = Runner(empty_database)
    assert (str(runner.status()), runner.status().partial_version) == ("empty", None)
    runner.up("3.0.0")
    assert (str(runner.status()), runner.status().partial_version) == ("3.0.0", None)
    runner.up("4.0.0")
    assert str(runner.status()) == "4.0.0"
    # As if a newer release added a migration to the installed version.
    run(empty_database, "DELETE FROM public.usage_migrations WHERE number = (SELECT max(number) FROM usage_migrations)")
    found = runner.status()
    assert (found.version, found.partial_version, str(found)) == ("3.0.0", "4.0.0", "3.0.0 and a part of 4.0.0")
    assert schema_version(empty_database) == "3.0.0"
    cli = Cli(tmp_path, DATABASE_URL=empty_database)
    assert "the schema is 3.0.0 and a part of 4.0.0; this code brings" in cli.run("migrate", "status").stdout
    assert json.loads(cli.run("migrate", "status", "--json").stdout)["partial_version"] == "4.0.0"


def test_line_endings_do_not_count_as_edit(empty_database: str, files: Path) -> None:
    Runner(empty_database).up("1.0.0")
    file = files / "001_identity.up.sql"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert Runner(empty_database, files).status().migrations[0].state == "applied"


def test_newer_database_is_refused(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("1.0.0")
    run(
        empty_database,
        "INSERT INTO public.usage_migrations (number, name, version, sha256, state)"
        " VALUES (999, 'future', '99.0.0', 'x', 'applied')",
    )
    assert schema_version(empty_database) == "99.0.0"
    assert runner.status().migrations[-1].state == "unknown"
    for act in (runner.up, runner.verify, lambda: runner.down("1.0.0")):
        with pytest.raises(SchemaError, match="999_future"):
            act()


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda runner: runner.up("9.9.9"), MigrationError, r"no version 9\.9\.9; known are 1\.0\.0, "),
        (lambda runner: runner.up("new"), MigrationError, "no version new"),
        (
            lambda runner: runner.up("1.0.0"),
            SchemaError,
            r"is at 2\.0\.0; to go back run migrate down --to 1\.0\.0",
        ),
        (lambda runner: runner.down("3.0.0"), MigrationError, r"below 3\.0\.0"),
    ],
)
def test_invalid_target_is_refused(
    empty_database: str, act: Callable[[Runner], object], error: type[Exception], message: str
) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    with pytest.raises(error, match=message):
        act(runner)


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:hush@127.0.0.1:1/db", "postgresql://me:hu%sh@h/db", "postgresql://me:hush@h:x/db"],
)
def test_errors_never_show_password(url: str) -> None:
    with pytest.raises((StoreUnavailableError, SettingsError)) as raised:
        schema_version(url)
    assert "hu" not in str(raised.value).replace("user:password", "")


@pytest.mark.parametrize("condition", ["unique_violation", "lock_not_available"])
def test_refusal_is_no_outage_and_shows_no_row(empty_database: str, condition: str) -> None:
    statement = f"DO $$ BEGIN RAISE {condition} USING MESSAGE = 'what', HINT = 'remedy', DETAIL = 'a row'; END $$"
    with pytest.raises(MigrationError, match=r"what; remedy$") as raised, connect(empty_database) as connection:
        connection.execute(statement.encode())
    assert "a row" not in "".join(traceback.format_exception(raised.value))


def test_statements_are_split_at_their_semicolons() -> None:
    text = """
        -- a; comment
        SELECT 'a;''b', E'\\';', "c;d", $$e;f$$, $x$ $$;g $x$, a$b$c; /* h; /* nested; */ */
        ;; DO $do$ BEGIN PERFORM 1; END $do$;
        SELECT 2 -- the last; without a semicolon
    """
    first, second, third = split_statements(text)
    assert first.startswith("SELECT 'a;''b'")
    assert first.endswith("a$b$c")
    assert second == "DO $do$ BEGIN PERFORM 1; END $do$"
    assert third.startswith("SELECT 2")
