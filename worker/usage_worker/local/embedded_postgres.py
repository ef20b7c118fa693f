"""PostgreSQL as a child process."""

from __future__ import annotations

import re
import shutil
import signal
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import quote

from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from usage_worker.errors import EmbeddedServerError
from usage_worker.local.account import Account, make_private_folder
from usage_worker.local.binaries import Program, find_postgres
from usage_worker.local.embedded_server import START_TIMEOUT, Answer, EmbeddedServer
from usage_worker.postgres import connect, translated

if TYPE_CHECKING:
    from pathlib import Path

# For two cores that are shared with the workers; durability stays fully on, as is PostgreSQL's default.
DEFAULTS = {
    # Holds a million pairs with their days; memory that is never used is never allocated.
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    # With PostgreSQL's default, an ANALYZE keeps its snapshot for a minute under load. Meanwhile dead row versions of
    # user_agents cannot be pruned, so that updates move to other pages and are no longer HOT.
    "autovacuum_vacuum_cost_limit": "2000",
    "max_connections": "200",
    "track_commit_timestamp": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Its locale C.UTF-8 is built in: order by code points as in C, letters as in Unicode, the same on each system.
FIRST_WITH_UNICODE = 17
RESTART_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL on a data folder; its socket is private to the owner, so that it needs no password.

    `settings` are those of PostgreSQL, such as `{"fsync": "off"}`.
    """

    name: ClassVar[str] = "PostgreSQL"
    socket_name: ClassVar[str] = ".s.PGSQL.5432.lock"  # the longer name of the two files in that folder
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # fast shutdown: does not wait for clients

    @property
    def bin_dir(self) -> Path:
        """Folder of psql, pg_dump and other programs of the server's version."""
        return self._ready_program().path.parent

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(self.socket_dir), safe='')}"

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start again on the same data; `immediate` causes crash recovery."""
        self._relaunch(RESTART_SIGNALS[mode])

    def ensure_database(self, database: str) -> str:
        """Create the database if it does not exist, and return its URL.

        Raises:
            StoreUnavailableError: the server does not answer.
        """
        with translated(), connect(self.url()) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [database]).rowcount
            if not found:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        return self.url(database)

    def _find_program(self, account: Account | None, copies: Path) -> Program:
        return find_postgres(account, copies)

    def _prepare(self, server_lock: int) -> None:
        data = self._data
        if data.exists():
            # We hold the server's lock, so the server that wrote them has ended. PostgreSQL itself only sees that a
            # process has that number: a zombie or, after a reboot or in a container, any process.
            for stale in (data / "postmaster.pid", self.socket_dir / self.socket_name):
                stale.unlink(missing_ok=True)
            return
        draft = data.with_name("data.draft")  # the folder of an interrupted initdb must not be used
        shutil.rmtree(draft, ignore_errors=True)
        make_private_folder(draft, self._account)
        self._initialize(draft, server_lock)
        draft.rename(data)

    def _initialize(self, folder: Path, server_lock: int) -> None:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        if int(re.split(r"\D", self._ready_program().version)[0] or 0) >= FIRST_WITH_UNICODE:
            # C folds the case of ASCII alone: a search for "помощник" would not find "ПОМОЩНИК".
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = self._spawn([self.bin_dir / "initdb", f"--pgdata={folder}", *options], server_lock)
        try:
            if initdb.wait(START_TIMEOUT) != 0:
                raise EmbeddedServerError(self._failure(initdb))
        except TimeoutError as error:
            raise EmbeddedServerError(str(error)) from None
        finally:
            initdb.kill()  # an interrupted start leaves no process running

    def _command(self) -> list[str | Path]:
        settings = {
            **DEFAULTS,
            **self.settings,
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": str(self.socket_dir),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._ready_program().path, "-D", self._data, *options]

    def _answer(self) -> Answer:
        answer = PGconn.ping(make_conninfo(self.url(), connect_timeout=2).encode())
        return {Ping.OK: Answer.READY, Ping.REJECT: Answer.RECOVERING}.get(Ping(answer), Answer.NOTHING)

    @property
    def _data(self) -> Path:
        return self.data_dir / "data"
