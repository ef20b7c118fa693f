"""Debian's PgBouncer in transaction mode, in front of the PostgreSQL of the session."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.helpers import eventually, free_port
from usage_worker.local.account import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

PGBOUNCER = Path("/usr/sbin/pgbouncer")
# Fewer sessions than the tests have clients, so that clients share them.
SESSIONS = 3


@contextmanager
def pgbouncer(database: str, **settings: str) -> Iterator[str]:
    """Start PgBouncer; yield the URL of the database through it."""
    given = conninfo_to_dict(database)
    user, name = str(given["user"]), str(given["dbname"])
    port = free_port()
    with temporary_folder() as folder:
        (folder / "users").write_text(f'"{user}" ""\n')
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(folder / "users"),
            "pool_mode": "transaction",
            "default_pool_size": str(SESSIONS),
            "query_wait_timeout": "20",
            **settings,
        }
        if os.geteuid() == 0:
            options["user"] = Path(str(given["host"])).owner()  # who may use the sockets there
        lines = [f"{key} = {value}" for key, value in options.items()]
        places = (f"{key}={given[key]}" for key in ("host", "port", "password") if given.get(key))
        target = f"{name} = {' '.join(places)}"
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines]) + "\n")
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
        with (folder / "log").open("w") as log, subprocess.Popen([PGBOUNCER, file], stdout=log, stderr=log) as process:
            url = f"postgresql://{user}@127.0.0.1:{port}/{name}"
            try:
                eventually(lambda: _answers(url) or process.poll() is not None)
                assert process.poll() is None, (folder / "log").read_text()
                yield url
            finally:
                process.terminate()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def pooled(database: str) -> Iterator[str]:
    """Return the URL of `database` through PgBouncer."""
    with pgbouncer(database) as url:
        yield url
