"""A streaming standby of an embedded PostgreSQL: copied, awaited and promoted, as an administrator does it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import psycopg

from tests.helpers import eventually
from usage_worker.local import EmbeddedPostgres
from usage_worker.local.account import change_owner, server_account

if TYPE_CHECKING:
    from pathlib import Path

# Commits must reach the standby, which `synchronous_commit = off` of FAST_POSTGRES would not await.
SETTINGS = {"fsync": "off", "synchronous_commit": "on", "shared_buffers": "32MB"}


def copy_of(primary: EmbeddedPostgres, folder: Path) -> EmbeddedPostgres:
    """Make a standby of the primary, which is not started yet."""
    program = str(primary.bin_dir / "pg_basebackup")
    options = [
        "--write-recovery-conf",
        "--checkpoint=fast",
        "--dbname",
        primary.url(),
        "--pgdata",
        str(folder / "data"),
    ]
    folder.mkdir()
    subprocess.run([program, *options], check=True, timeout=60)
    if account := server_account():
        change_owner(folder, account)
    return EmbeddedPostgres(folder, SETTINGS)


def require_standby(primary: EmbeddedPostgres) -> None:
    """Let each commit of the primary wait for a standby from now on."""
    configure(primary, "synchronous_standby_names", "*")


def configure(server: EmbeddedPostgres, setting: str, value: str) -> None:
    """Change a setting of the whole server while it runs, and wait until new sessions have it."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET {setting} = '{value}'".encode())
        connection.execute("SELECT pg_reload_conf()")

    def is_set() -> bool:
        with psycopg.connect(server.url()) as connection:
            return connection.execute("SELECT current_setting(%s)", [setting]).fetchone() == (value,)

    eventually(is_set, 30)


def has_caught_up(primary: EmbeddedPostgres) -> bool:
    """Return whether a standby streams from the primary, and has replayed all that is committed."""
    replayed = "SELECT count(*) > 0 AND bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication"
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        return connection.execute(replayed).fetchone() == (True,)


def promote(standby: EmbeddedPostgres) -> None:
    """Make a standby a primary, and wait until it is one."""
    with psycopg.connect(standby.url(), autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
        eventually(lambda: connection.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,), 30)
