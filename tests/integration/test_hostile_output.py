"""Nothing from outside reaches a terminal or a pipe raw, and no command ends with a traceback, whatever it meets."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.helpers import eventually
from tests.hostile import HOSTILE_TEXT, LONG, check_shown
from tests.integration.commands import PROGRAM, Cli, events
from usage_worker.maintenance.purge import PURGE
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.processes import Process, Processes

# Tabs that a line of the command has between its cells.
COMMANDS = {
    "status": 1,
    "schedule": 6,
    "dead-letters list": 4,
    "dead-letters replay --all": 0,
    "migrate verify": 2,
    "run partitions": 0,
}


@pytest.fixture
def hostile_cli(cli: Cli, database: str, redis_url: str) -> Cli:
    """Return the commands on servers in which every text that others can write is hostile."""
    dead_letter = """
        INSERT INTO usage_dead_letters (entry_key, position, stream, entry_id, reason, payload)
        VALUES (gen_random_uuid(), 0, %(text)s, %(text)s, %(long)s, %(payload)s)
    """
    run = "INSERT INTO usage_task_runs VALUES (%s, now(), 1, %s)"
    policy = sql.SQL("CREATE POLICY {} ON user_agents FOR SELECT USING (true)")
    with psycopg.connect(database) as connection:
        connection.execute(dead_letter, {"text": HOSTILE_TEXT, "long": LONG, "payload": json.dumps({LONG: 1})})
        connection.execute(run, [PURGE, Jsonb({HOSTILE_TEXT: LONG, "failed": {HOSTILE_TEXT: HOSTILE_TEXT}})])
        connection.execute(policy.format(sql.Identifier(HOSTILE_TEXT)))
    redis = RedisConnection(redis_url)
    Processes(redis).record(HOSTILE_TEXT, Process("worker", ["counting"], [HOSTILE_TEXT], 3, HOSTILE_TEXT))
    FlushRecords(redis).failed(0, LONG)
    redis.close()
    cli.env |= {"USAGE_UNKNOWN": "quarantine"}
    return cli


def test_commands_show_nothing_raw(hostile_cli: Cli) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(COMMANDS, pool.map(lambda it: hostile_cli.run(*it.split()), COMMANDS), strict=True))
    for command, tabs in COMMANDS.items():
        check_shown(done[command].stdout, tabs)
        check_shown(done[command].stderr)
    shown = {command: it.stdout + it.stderr for command, it in done.items()}
    for command in ("status", "schedule", "dead-letters list", "dead-letters replay --all", "migrate verify"):
        assert r"a\x1b[31m" in shown[command], command


def test_table_on_terminal_shows_nothing_raw(hostile_cli: Cli) -> None:
    hostile_cli.env |= {"FORCE_COLOR": "1", "COLUMNS": "200"}
    shown = hostile_cli.run("dead-letters", "list").stdout
    check_shown(re.sub(r"\x1b\[[0-9;]*m", "", shown))
    assert "\x1b[31m" not in shown
    assert r"a\x1b[31m" in shown


def test_dead_letter_is_shown_whole_and_escaped(hostile_cli: Cli) -> None:
    listed = hostile_cli.run("dead-letters", "list", "--json").stdout
    assert listed.isascii()
    number = json.loads(listed)[0]["id"]
    shown = hostile_cli.run("dead-letters", "show", str(number)).stdout
    assert shown.replace("\t", "").replace("\n", "").isprintable()
    assert f'{"x" * 200_000}": 1}}' in shown


def test_publish_shows_names_of_fields_columns_and_files_escaped(cli: Cli) -> None:
    name = HOSTILE_TEXT.replace("/", "")
    cli.folder.joinpath("fields.ndjson").write_text(events(1, **{HOSTILE_TEXT: 1}) + events(1, **{LONG: 1}))
    cli.folder.joinpath("columns.csv").write_text(f'"{HOSTILE_TEXT}",b\n1,2\n', newline="")
    for arguments in (
        ["fields.ndjson"],
        ["columns.csv", "--map", "tokens=c"],
        [name],
        ["columns.csv", "--set", name],
    ):
        done = cli.run("publish", *arguments)
        assert done.returncode == 1
        check_shown(done.stdout + done.stderr)
        assert r"a\x1b[31m" in done.stderr, arguments[0]


def test_every_line_of_commands_on_standard_error_is_json(hostile_cli: Cli) -> None:
    hostile_cli.env["USAGE_LOG_FORMAT"] = "json"
    hostile_cli.folder.joinpath("bad.ndjson").write_text("{\n")
    commands: dict[str, dict[str, str]] = {
        "publish bad.ndjson": {},
        "migrate down --to 0.0.0": {},
        "migrate status": {"DATABASE_URL": "postgresql://127.0.0.1:1/x"},
        "drain": {"USAGE_BATCH_EVENTS": "many"},
        "report --no-such-option": {},
    }
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda it: Cli(hostile_cli.folder, **hostile_cli.env | commands[it]).run(*it.split()), commands)
        for done in runs:
            assert done.stderr, done
            for line in map(json.loads, done.stderr.splitlines()):
                assert {"event", "level", "timestamp", "origin", "host", "pid"} <= line.keys()


def test_output_that_encoding_lacks_is_escaped(cli: Cli) -> None:
    cli.env |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    cli.folder.joinpath("columns.csv").write_text("größe→,b\n1,2\n")
    done = subprocess.run(
        [PROGRAM, "publish", "columns.csv", "--map", "tokens=c"],
        cwd=cli.folder,
        env=cli.env,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"u2192" in done.stderr


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [("/dev/full", 1, "usage-worker: the output cannot be written: No space left on device\n"), ("closed", 0, "")],
)
def test_output_that_takes_nothing(cli: Cli, output: str, code: int, message: str) -> None:
    command = f"{PROGRAM} migrate sql {'>&-' if output == 'closed' else f'>{output}'}"
    done = subprocess.run(["sh", "-c", command], env=cli.env, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (code, message)


def test_reader_that_leaves_early(cli: Cli) -> None:
    """A script of 200 kB does not fit into the pipe."""
    with subprocess.Popen(
        [PROGRAM, "migrate", "sql"], env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("library", ["pydantic_core", "psycopg_binary"])
def test_interrupt_while_packages_load(cli: Cli, library: str) -> None:
    # Where the tests run in the background, the signal is ignored, which children inherit.
    command = ["env", "--default-signal=INT", PROGRAM, "drain"]
    with subprocess.Popen(
        command, env=cli.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        loaded = Path(f"/proc/{process.pid}/maps")
        eventually(lambda: library in loaded.read_text())
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert (process.returncode, output) == (130, b"")
