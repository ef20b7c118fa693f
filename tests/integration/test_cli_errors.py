"""An error is one line on standard error that says what to do, without a password; the exit code is 1."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.integration.commands import PROGRAM, SECRET, Cli, events, send
from usage_worker.errors import SettingsError
from usage_worker.migrate import Runner
from usage_worker.queue.stream import EventStream
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from pathlib import Path

UNREACHABLE = f"postgresql://somebody:{SECRET}@127.0.0.1:1/usage"
COMMANDS = ("drain", "migrate up")


@pytest.fixture
def cli(tmp_path: Path, redis_url: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=UNREACHABLE, REDIS_URL=redis_url)


def test_invalid_setting(cli: Cli) -> None:
    cli.env["USAGE_BATCH_EVENTS"] = SECRET
    for error_line in cli.error_lines("drain", "status", "publish -"):
        assert "USAGE_BATCH_EVENTS" in error_line


def test_file_of_settings_that_is_not_text(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"USAGE_LOG_LEVEL=\xff\n")
    for error_line in cli.error_lines("drain", "status", "migrate status"):
        assert error_line.endswith(".env: this file is not text in UTF-8")
    for command in ("status", "doctor"):
        shown = cli.run(command, "--json")
        assert (shown.returncode, shown.stderr) == (1, "")
        assert ".env" in str(json.loads(shown.stdout))


def test_missing_database_url(cli: Cli) -> None:
    del cli.env["DATABASE_URL"]
    for error_line in cli.error_lines(*COMMANDS):
        assert "export DATABASE_URL=" in error_line


def test_unreachable_postgresql(cli: Cli) -> None:
    for error_line in cli.error_lines(*COMMANDS, "report", "run reconcile"):
        assert "PostgreSQL is not available" in error_line
        assert "port 1" in error_line


@pytest.mark.parametrize("password", [f"%zz{SECRET}", f"{SECRET} x"])
def test_password_that_breaks_database_url(cli: Cli, password: str) -> None:
    cli.env["DATABASE_URL"] = UNREACHABLE.replace(SECRET, password)
    for error_line in cli.error_lines("drain", "migrate up"):
        assert "DATABASE_URL cannot be read" in error_line


def test_worker_pool_never_receives_broken_database_url() -> None:
    with pytest.raises(SettingsError) as refused:
        Store(UNREACHABLE.replace(SECRET, f"%zz{SECRET}"))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        (f"redis://:{SECRET}@127.0.0.1:1/0", "Redis is not available"),
        (f"redis://:{SECRET}/x@127.0.0.1:6379/0", "the port is not a number"),
        (f"http://:{SECRET}@127.0.0.1:6379/0", "must begin with redis://"),
    ],
)
def test_unreachable_redis(cli: Cli, database: str, url: str, hint: str) -> None:
    cli.folder.joinpath("events.ndjson").write_text(events(1))
    cli.env |= {"REDIS_URL": url, "DATABASE_URL": database}
    for error_line in cli.error_lines("drain", "publish events.ndjson"):
        assert "REDIS_URL" in error_line
        assert hint in error_line


@pytest.mark.parametrize("version", [None, "3.0.0"])
def test_missing_or_old_schema(cli: Cli, empty_database: str, redis_url: str, version: str | None) -> None:
    if version:
        Runner(empty_database).up(version)
    cli.env["DATABASE_URL"] = empty_database
    send(redis_url, 2)
    assert "usage-worker migrate up" in cli.error_line("drain")
    # No entry was read, so none is pending.
    with closing(EventStream(redis_url, 2)) as stream:
        backlogs = [stream.backlog(shard) for shard in range(2)]
    assert sum(backlog.entries for backlog in backlogs) > 0
    assert sum(backlog.pending for backlog in backlogs) == 0


def test_up_reports_taken_flower_port_before_start(cli: Cli) -> None:
    del cli.env["DATABASE_URL"], cli.env["REDIS_URL"]
    with socket.create_server(("127.0.0.1", 0)) as occupier:
        port = occupier.getsockname()[1]
        error_line = cli.error_line(f"up --data-dir data --flower-port {port}")
    assert f"port {port}" in error_line
    assert "Address already in use" in error_line
    assert "--flower-port" in error_line
    assert not cli.folder.joinpath("data").exists()


def test_publish_explains_invalid_arguments(cli: Cli) -> None:
    cli.folder.joinpath("events.csv").write_text("a,b\n1,2\n")
    hints = {
        "absent.csv": "absent.csv: No such file",
        ".": ".: Is a directory",
        "/proc/self/mem": "/proc/self/mem: Input/output error",
        "events.csv --map tokens": "FIELD=VALUE",
        "events.csv --map token=a": "there is no field token",
        "events.csv --map tokens=c": "no column c; there are a, b",
    }
    error_lines = cli.error_lines(*(f"publish {arguments}" for arguments in hints))
    for hint, error_line in zip(hints.values(), error_lines, strict=True):
        assert hint in error_line


@pytest.mark.parametrize(
    ("command", "hint"),
    [("publish -", "standard input is closed"), (f"forget {UUID(int=1)}", "run it again with --yes")],
)
def test_standard_input_that_is_closed(cli: Cli, database: str, command: str, hint: str) -> None:
    cli.env |= {"DATABASE_URL": database, "USAGE_FORGET_KEY": "00" * 32}
    done = cli.run("-c", f"exec {PROGRAM} {command} <&-", program=("sh",))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert hint in done.stderr
