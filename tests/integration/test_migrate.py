"""The way up, the way down, and what may go wrong on both."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.helpers import eventually
from worker.errors import MigrationError, SchemaError, StoreUnavailableError
from worker.migrate import EMPTY, Deviation, Runner, discover, latest_version, schema_version
from worker.migrate.connection import LOCK_KEY, connect
from worker.migrate.files import split_statements
from worker.migrate.verify import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from worker.migrate.verify import Fact

MIGRATIONS = discover()[0].up.parent
VERSIONS = list(dict.fromkeys(migration.version for migration in discover()))


def run(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def schema(url: str) -> set[Fact]:
    """The catalogue without what a way down keeps aside, and without roles, which are the cluster's."""
    with connect(url) as connection:
        facts = catalogue(connection)
    return {fact for fact in facts if fact.kind != "role" and "_kept_3_0_0" not in (fact.belongs_to or "")}


def add_pair(url: str) -> str:
    """A user, an agent and their row; returns the id of the row."""
    query = """
        WITH u AS (INSERT INTO auth.users (email) VALUES ('a@example.org') RETURNING id),
            a AS (INSERT INTO public.agents (name) VALUES ('helper') RETURNING id)
        SELECT u.id, a.id FROM u, a
    """
    user_id, agent_id = run(url, query)[0]
    row = run(
        url,
        "INSERT INTO public.user_agents (user_id, agent_id) VALUES (%s, %s) RETURNING id::text",
        user_id,
        agent_id,
    )
    return str(row[0][0])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of the migrations that a test may change."""
    return shutil.copytree(MIGRATIONS, tmp_path / "migrations")


def test_every_version_verifies_and_every_way_down_restores_the_version_before(empty_database: str) -> None:
    runner = Runner(empty_database)
    seen = {EMPTY: schema(empty_database)}
    for version in VERSIONS:
        runner.up(version)
        assert schema_version(empty_database) == version
        assert runner.verify() == []
        seen[version] = schema(empty_database)
    assert latest_version() == VERSIONS[-1]
    for version in [*reversed(VERSIONS[:-1]), EMPTY]:
        runner.down(version)
        assert schema_version(empty_database) == (None if version == EMPTY else version)
        assert schema(empty_database) == seen[version]


def test_one_jump_ends_where_single_steps_end(empty_database: str) -> None:
    runner = Runner(empty_database)
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        runner.up(version)
    stepwise = schema(empty_database)
    runner.down("1.0.0")
    runner.up("3.0.0")
    assert schema(empty_database) == stepwise


def test_values_survive_the_way_to_2_and_back(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    changed, _untouched, deleted = (add_pair(empty_database) for _ in range(3))
    run(
        empty_database,
        """
        UPDATE public.user_agents SET
            total_cost_usd = 0.0000000001, user_rating = 4.25, custom_temperature = 0.70,
            first_used_at = '2024-02-29 23:59:59.999999+00', deleted_at = 'infinity',
            tags = '{a,"b c",NULL}', shared_with = ARRAY[gen_random_uuid(), gen_random_uuid()],
            settings = 'null', ui_config = '{"n": 1.50, "deep": [1, {"x": null}]}',
            notes = E'line\\n''quoted''', message_count = 9223372036854775807,
            team_id = gen_random_uuid(), is_shared = true, source = 'store'
        WHERE id = %s
        """,
        changed,
    )
    run(
        empty_database,
        "INSERT INTO public.user_role_assignments SELECT id, gen_random_uuid() FROM auth.users",
    )
    values = "SELECT u::text FROM public.user_agents AS u ORDER BY id"
    members = "SELECT m::text FROM public.user_role_assignments AS m ORDER BY user_id"
    kept_members = run(empty_database, members)
    run(empty_database, "DELETE FROM public.user_agents WHERE id = %s", deleted)
    before = run(empty_database, values)

    runner.down("2.0.0")
    assert run(
        empty_database,
        "SELECT has_table_privilege('authenticated', oid, 'SELECT'), relrowsecurity FROM pg_class"
        " WHERE relname = 'user_agents_kept_3_0_0'",
    ) == [(False, True)]
    newcomer = add_pair(empty_database)
    runner.up("3.0.0")

    run(empty_database, "DELETE FROM public.user_agents WHERE id = %s", newcomer)
    assert run(empty_database, values) == before
    assert run(empty_database, members) == kept_members
    assert runner.verify() == []
    assert run(empty_database, "SELECT relname FROM pg_class WHERE relname LIKE '%kept%'") == []


def test_what_is_written_while_columns_are_kept_aside_is_kept_too(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("3.0.0")
    ids = [add_pair(empty_database) for _ in range(20)]
    # The copying has to take longer than a few writes.
    run(
        empty_database,
        "INSERT INTO auth.users (email) SELECT 'many' FROM generate_series(1, 20000);"
        "INSERT INTO public.user_agents (user_id, agent_id)"
        " SELECT u.id, a.id FROM auth.users AS u, (SELECT id FROM public.agents LIMIT 1) AS a"
        " WHERE email = 'many'",
    )
    committed: dict[str, str] = {}

    def write_until_the_column_is_gone() -> None:
        with psycopg.connect(empty_database, autocommit=True) as connection:
            while True:
                for row_id in ids:
                    note = uuid.uuid4().hex
                    try:
                        connection.execute("UPDATE public.user_agents SET notes = %s WHERE id = %s", [note, row_id])
                    except psycopg.errors.UndefinedColumn:
                        return
                    committed[row_id] = note

    writer = threading.Thread(target=write_until_the_column_is_gone)
    writer.start()
    eventually(lambda: len(committed) == len(ids))
    runner.down("2.0.0")
    writer.join()
    runner.up("3.0.0")
    notes = run(empty_database, "SELECT id::text, notes FROM public.user_agents WHERE notes IS NOT NULL")
    assert dict(notes) == committed


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(("label", "only"), [("003_user_agents_columns", ""), ("004_user_agents_indexes", "added_at")])
def test_goes_on_from_wherever_it_stopped(
    empty_database: str, files: Path, label: str, only: str, direction: str
) -> None:
    """Steps outside a transaction may stop behind any statement; either direction then finishes.

    Of 004 only the statements that replace an index are tried: the others make or drop one and no more.
    """
    sound = Runner(empty_database)
    sound.up("2.0.0")
    at_2 = schema(empty_database)
    sound.up("3.0.0")
    add_pair(empty_database)
    at_3 = schema(empty_database)
    file = files / f"{label}.{direction}.sql"
    text = file.read_text()
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("--"))
    statements = split_statements(text)
    for stop in range(len(statements) + 1):
        if only not in "".join(statements[max(stop - 1, 0) : stop + 1]):
            continue
        broken = [*statements[:stop], "SELECT 1 / 0", *statements[stop:]]
        file.write_text(header + ";\n".join(broken) + ";\n")
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


def _move(runner: Runner, direction: str) -> None:
    if direction == "up":
        runner.up("3.0.0")
    else:
        runner.down("2.0.0")


def test_a_failing_migration_leaves_nothing_and_may_be_corrected(empty_database: str, files: Path) -> None:
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


def test_a_kill_while_an_index_is_built_is_repaired(empty_database: str, files: Path) -> None:
    for path in [*files.glob("004*"), *files.glob("005*"), *files.glob("006*")]:
        path.unlink()
    Runner(empty_database, files).up("3.0.0")
    add_pair(empty_database)
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    with psycopg.connect(empty_database) as reader:
        # An older transaction, for which the building of an index has to wait.
        reader.execute("SELECT FROM public.user_agents")
        program = "import sys; from worker.migrate import Runner; Runner(sys.argv[1]).up('3.0.0')"
        migrating = subprocess.Popen([sys.executable, "-c", program, empty_database])
        eventually(lambda: run(empty_database, invalid)[0][0])
        migrating.send_signal(signal.SIGKILL)
        migrating.wait()
        unfinished = Deviation("migration", "004_user_agents_indexes", "is running; run it again")
        assert unfinished in Runner(empty_database).verify()
    Runner(empty_database).up("3.0.0")
    assert Runner(empty_database).verify() == []
    assert run(empty_database, invalid) == [(0,)]


def test_a_kill_inside_a_transaction_is_repaired(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("1.0.0")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with psycopg.connect(empty_database) as writer:
        writer.execute("INSERT INTO public.agents (name) VALUES ('uncommitted')")
        program = "import sys; from worker.migrate import Runner; Runner(sys.argv[1]).up('2.0.0')"
        migrating = subprocess.Popen([sys.executable, "-c", program, empty_database])
        eventually(lambda: run(empty_database, waiting)[0][0])
        migrating.send_signal(signal.SIGKILL)
        migrating.wait()
    assert runner.status().migrations[1].state == "running"
    runner.up("2.0.0")
    assert runner.verify() == []


def test_two_at_once_do_it_once(empty_database: str) -> None:
    def migrate(_: int) -> list[str]:
        return [migration.label for migration in Runner(empty_database).up("3.0.0")]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(migrate, range(4)))
    assert sorted(done) == [[], [], [], [m.label for m in discover() if m.version <= "3.0.0"]]
    assert Runner(empty_database).verify() == []


def test_does_not_wait_when_told_not_to(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        with pytest.raises(MigrationError, match="another migration of this database is running"):
            Runner(empty_database).up(wait=False)


def test_gives_way_to_a_writer_and_tries_again(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("2.0.0")
    row_id = add_pair(empty_database)
    retried = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(empty_database) as writer:
            writer.execute("UPDATE public.user_agents SET usage_count = 1 WHERE id = %s", [row_id])
            run_up = pool.submit(
                runner.up, "3.0.0", report=lambda step: retried.set() if step.event == "retrying" else None
            )
            assert retried.wait(10)
        run_up.result(30)
    assert runner.verify() == []


def test_an_edited_file_is_refused(empty_database: str, files: Path) -> None:
    runner = Runner(empty_database, files)
    runner.up("2.0.0")
    file = files / "001_identity.up.sql"
    file.write_text(file.read_text() + "-- edited")
    edited = Runner(empty_database, files)
    assert edited.status().migrations[0].state == "edited"
    for act in (edited.up, edited.verify, lambda: edited.down("1.0.0")):
        with pytest.raises(MigrationError, match=r"001_identity\.up\.sql was edited"):
            act()


def test_line_ends_are_no_edit(empty_database: str, files: Path) -> None:
    Runner(empty_database).up("1.0.0")
    file = files / "001_identity.up.sql"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert Runner(empty_database, files).status().migrations[0].state == "applied"


def test_a_newer_database_is_refused(empty_database: str) -> None:
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
def test_a_target_that_makes_no_sense_is_refused(
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
def test_errors_never_show_the_password(url: str) -> None:
    with pytest.raises(StoreUnavailableError) as raised:
        schema_version(url)
    assert "hu" not in str(raised.value).replace("user:password", "")


def test_statements_are_split_where_they_end() -> None:
    text = """
        -- a; comment
        SELECT 'a;''b', E'\\';', "c;d", $$e;f$$, $x$ $$;g $x$, a$b$c; /* h; /* nested; */ */
        ;; DO $do$ BEGIN PERFORM 1; END $do$;
        SELECT 2 -- the last; without its own end
    """
    first, second, third = split_statements(text)
    assert first.startswith("SELECT 'a;''b'")
    assert first.endswith("a$b$c")
    assert second == "DO $do$ BEGIN PERFORM 1; END $do$"
    assert third.startswith("SELECT 2")


def test_psql_runs_the_files_too(empty_database: str, postgres: Any) -> None:
    for migration in discover():
        command = [
            postgres.bin_dir / "psql",
            "-qX",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            empty_database,
            "-f",
            migration.up,
        ]
        subprocess.run(command, check=True, capture_output=True)
    by_psql = schema(empty_database)
    for migration in reversed(discover()):
        file = migration.up.with_name(f"{migration.label}.down.sql")
        subprocess.run(
            [postgres.bin_dir / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", empty_database, "-f", file],
            check=True,
            capture_output=True,
        )
    Runner(empty_database).up()
    assert schema(empty_database) == by_psql
