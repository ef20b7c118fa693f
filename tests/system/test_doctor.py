"""`usage-worker doctor`: what cannot be asked is unknown with the reason, and nothing is written."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from tests.conftest import OPERATIONS, with_login
from tests.integration.commands import SECRET, Cli
from tests.integration.database import with_option
from tests.system.doctor import NOWHERE, POSTGRESQL_CHECKS, REDIS_CHECKS, Doctor, states, unanswered
from usage_worker.monitoring.doctor import DOCTOR_CHECKS
from usage_worker.monitoring.status import CHECKS
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.queue.processes import Process, Processes

if TYPE_CHECKING:
    from pathlib import Path

    import redis


def test_nothing_is_written(doctor: Doctor, database: str, redis_client: redis.Redis) -> None:
    """As far as PostgreSQL can tell, no statement writes; and Redis counts no change."""
    doctor.set(DATABASE_URL=with_option(database, "default_transaction_read_only=on"))
    redis_client.xadd("usage:events:{0}", {"v": "1"})
    redis_client.set("usage:counted:{1}", "of another type")
    changes = redis_client.info("replication")["master_repl_offset"], redis_client.dbsize()
    assert unanswered(doctor.ask(), POSTGRESQL_CHECKS | REDIS_CHECKS) <= {"hot_updates"}
    assert (redis_client.info("replication")["master_repl_offset"], redis_client.dbsize()) == changes


@pytest.mark.parametrize(
    ("variable", "fails", "unknown", "answered"),
    [
        ("DATABASE_URL", "postgresql", POSTGRESQL_CHECKS, REDIS_CHECKS),
        ("REDIS_URL", "redis", REDIS_CHECKS, POSTGRESQL_CHECKS),
    ],
)
def test_server_that_is_down(doctor: Doctor, variable: str, fails: str, unknown: set[str], answered: set[str]) -> None:
    doctor.set(**{variable: NOWHERE[variable]})
    said = doctor.ask()
    assert said[fails].startswith("fail: ")
    assert unanswered(said, unknown) == unknown
    assert unanswered(said, answered) <= {"hot_updates"}
    assert f"cannot be asked while {fails} fails" in said[min(unknown)]


def test_servers_that_hang(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        doctor.set(DATABASE_URL=f"postgresql://127.0.0.1:{port}/usage", REDIS_URL=f"redis://127.0.0.1:{port}/0")
        said = doctor.ask()
    assert set(states(said, {"redis", "postgresql"}).values()) == {"fail"}
    assert unanswered(said, REDIS_CHECKS | POSTGRESQL_CHECKS) == REDIS_CHECKS | POSTGRESQL_CHECKS


def test_workers_of_another_version(doctor: Doctor, redis_url: str) -> None:
    with closing(RedisConnection(redis_url)) as connection:
        Processes(connection).record("old@here", Process("worker", ["counting"], ["celery"], 2, "0.0.1"))
    assert f"warn: old@here runs 0.0.1, and this command is {version('usage-worker')}" in doctor.said("worker_versions")


def test_command(tmp_path: Path, database: str, redis_url: str) -> None:
    cli = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)
    failing = cli.run("doctor")
    assert failing.returncode == 1
    assert "\x1b" not in failing.stdout
    assert any(line.startswith("fail\tconsumer_counting\t") for line in failing.stdout.splitlines())
    with closing(RedisConnection(redis_url)) as connection:
        worker = Process("worker", ["counting", "maintenance"], ["celery"], 2, version("usage-worker"), uptime=9.0)
        Processes(connection).record("worker@here", worker)
        Heartbeat(connection).beat()
    done = cli.run("doctor", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["failed"], found["counts"]["fail"]) == (0, False, 0)
    assert found["counts"]["warn"] > 0
    assert [check["check"] for check in found["checks"]] == list(DOCTOR_CHECKS)
    assert f"{len(DOCTOR_CHECKS)} checks: " in cli.run("doctor").stdout.splitlines()[-1]
    cli.env["REDIS_URL"] = with_login("redis://127.0.0.1:1/0", "default", SECRET)
    assert cli.run("doctor").returncode == 1  # `run` asserts that the password is not shown


def test_page_lists_every_check() -> None:
    page = (OPERATIONS.parent / "doctor.md").read_text("utf-8")
    assert [name for name in DOCTOR_CHECKS if name not in CHECKS and f"| `{name}` |" not in page] == []
