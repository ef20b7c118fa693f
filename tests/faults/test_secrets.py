"""No log of any process shows a password or an event while Redis and PostgreSQL fail and return."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus
from uuid import uuid4

import psycopg
import pytest
import redis
from celery import Celery
from typing_extensions import override

from tests.faults.harness import ROOT
from tests.helpers import broker_url, eventually
from tests.integration.commands import PROGRAM
from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
from usage_worker.local.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Passwords that URLs, libpq and the configuration files of the servers each spell differently.
DEFAULT_USER, ACL_USER, ROLE = "d3fault_r3dis", "r3d/s:@#?%&+é=s3cret", "p0st/gr:@#?%&+é's3cret"
SPELLINGS = {
    spelling
    for word in (DEFAULT_USER, ACL_USER, ROLE)
    for spelling in (
        word,
        quote(word, safe=""),
        quote(word),
        quote_plus(word),
        repr(word)[1:-1],
        json.dumps(word)[1:-1],
    )
}
USER = str(uuid4())
APPLICATION = f"""
import itertools, threading
from usage_worker.publisher import UsagePublisher
usage, pause = UsagePublisher(), threading.Event()
for number in itertools.count():
    usage.track("{USER}", "{uuid4()}", tokens=number)
    pause.wait(0.05)
"""
PROCESSES = ("worker1", "maintenance", "beat", "flower")
FIELDS = {"event", "level", "timestamp", "origin", "host", "pid"}


class GuardedValkey(EmbeddedValkey):
    """A Valkey on a TCP port, with passwords for the default user and the user `app`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {"requirepass": DEFAULT_USER})
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @override
    def url(self, db: int = 0) -> str:
        return super().url(db).replace("://", f"://:{DEFAULT_USER}@")

    def tcp_url(self, db: int, login: str) -> str:
        return f"redis://{login}@127.0.0.1:{self.port}/{db}"

    @override
    def _command(self) -> list[str | Path]:
        user = ["--user", "app", "on", f">{ACL_USER}", "~*", "&*", "+@all"]
        return [*super()._command(), "--port", str(self.port), "--bind", "127.0.0.1", *user]


@pytest.fixture
def guarded_valkey(server_folder: Path) -> Iterator[GuardedValkey]:
    with GuardedValkey(server_folder / "guarded-valkey") as server:
        yield server


@pytest.fixture
def guarded_database(durable_postgres: EmbeddedPostgres, durable_database: str) -> str:
    """Return the URL of the durable database for a role that must give its password."""
    rules = durable_postgres.data_dir / "data" / "pg_hba.conf"
    if "local all app" not in rules.read_text():
        rules.write_text(f"local all app scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(durable_database, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(
                f"CREATE ROLE app SUPERUSER LOGIN PASSWORD '{ROLE.replace(chr(39), 2 * chr(39))}'".encode()
            )
    return durable_database.replace("postgres@", f"app:{quote(ROLE, safe='')}@", 1)


class Installation:
    """The processes of a worker machine and of an application, and the output of each."""

    def __init__(self, database: str, redis_url: str, folder: Path, log_format: str) -> None:
        self.database, self.redis_url = database, redis_url
        self.folder = folder / log_format
        self.folder.mkdir()
        settings = {"USAGE_LOG_FORMAT": log_format, "USAGE_FLUSH_INTERVAL": "0.5"}
        self._env = {**os.environ, **settings, "DATABASE_URL": database, "REDIS_URL": redis_url}

    @contextmanager
    def running(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._env.items():
                patch.setenv(name, value)
            self.supervisor = Supervisor(self.database, self.redis_url, concurrency=1, log_dir=self.folder)
        with self.supervisor, self._process("publisher", [sys.executable, "-c", APPLICATION]):
            yield

    def run(self, *commands: str) -> None:
        """Run commands of usage-worker concurrently; ignore their exit codes."""
        with ExitStack() as stack:
            processes = [stack.enter_context(self._process(it, [PROGRAM, *it.split()])) for it in commands]
            for process in processes:
                process.wait(120)

    def output(self) -> dict[str, str]:
        """Return what each process has printed, after restarting those that died, as `usage-worker up` does.

        With Celery 5.7 a worker that loses Redis while a message is unacknowledged ends instead of reconnecting.
        """
        self.supervisor.poll()
        return {path.stem: path.read_text() for path in self.folder.glob("*.log")}

    def await_output(self, process: str, words: str) -> None:
        """Wait until a process has printed the words; a failure shows the end of its output."""
        try:
            eventually(lambda: words in self.output()[process], 40)
        except pytest.fail.Exception:
            pytest.fail(f"{process} does not print {words!r}; its output ends with: {self.output()[process][-3000:]}")

    @contextmanager
    def _process(self, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_logs_of_outage_show_no_secret(
    guarded_database: str, guarded_valkey: GuardedValkey, durable_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    logins = {"console": f":{DEFAULT_USER}", "json": f"app:{quote(ACL_USER, safe='')}"}
    with ExitStack() as stack:
        console, as_json = (
            Installation(guarded_database, guarded_valkey.tcp_url(number, login), tmp_path, log_format)
            for number, (log_format, login) in enumerate(logins.items())
        )
        for installation in (console, as_json):
            stack.enter_context(installation.running())
        lose_redis(guarded_valkey, console, as_json)
        lose_postgres(durable_postgres, console, as_json)
    for installation in (console, as_json):
        for process, text in installation.output().items():
            check(process, text)
        for process in PROCESSES:
            check_brief(process, installation.output()[process])
    for process in (*PROCESSES, "drain", "migrate status"):
        check_json(as_json.output()[process])


def lose_redis(server: GuardedValkey, console: Installation, as_json: Installation) -> None:
    with redis.Redis.from_url(server.url()) as admin:
        for installation, user in ((console, "default"), (as_json, "app")):
            await_counting(installation)
            send_unknown_task(installation)
            admin.acl_setuser(user, commands=["-xadd", "-lpush"])
    for installation in (console, as_json):
        installation.await_output("worker1", "usage.trak")
        installation.await_output("publisher", "no permissions")
        installation.await_output("beat", "Message Error")
    server.kill()
    console.run("drain")
    as_json.run("status", "metrics")
    for installation in (console, as_json):
        for process in ("worker1", "maintenance"):
            installation.await_output(process, "Cannot connect to redis://")
        installation.await_output("flower", "Failed to capture events")
    server.restart()  # the restart resets the permissions
    for installation in (console, as_json):
        await_counting(installation)


def lose_postgres(server: EmbeddedPostgres, console: Installation, as_json: Installation) -> None:
    server.kill()
    console.run("status", "metrics")
    as_json.run("drain", "migrate status")
    for installation in (console, as_json):
        installation.await_output("worker1", "PostgreSQL is not available")
    server.restart()
    for installation in (console, as_json):
        await_counting(installation)


def await_counting(installation: Installation) -> None:
    before = installation.output()["worker1"].count("flushed")
    eventually(lambda: installation.output()["worker1"].count("flushed") > before, 40)


def send_unknown_task(installation: Installation) -> None:
    """Send a task of another application, whose arguments Celery would log."""
    with Celery(broker=broker_url(installation.redis_url)) as sender:
        sender.send_task("usage.trak", kwargs={"user_id": USER})


def check(process: str, text: str) -> None:
    assert {secret for secret in SPELLINGS if secret in text} == set(), process
    assert USER not in text, process
    # The text of a refused Redis command contains the events.
    assert "XADD" not in text, process


def check_json(text: str) -> None:
    """Assert that every line is a JSON object and a traceback is text in a field."""
    logged = [json.loads(line) for line in text.splitlines()]
    assert all(line.keys() >= FIELDS for line in logged)
    assert all(line["exception"].startswith("Traceback") for line in logged if "exception" in line)
    assert not [line for line in logged if "exc_info" in line]
    assert all({"task_id", "shard"} <= line.keys() for line in logged if line.get("task") == "usage.flush")


def check_brief(process: str, text: str) -> None:
    """Assert that an outage, and its end, cost a few lines: beat alone once wrote 4,600 lines in 20 s."""
    lines = [line for line in text.splitlines() if "flushed" not in line]
    assert len(lines) < 500, (process, len(lines))
    assert "Traceback" not in text, process
