"""The PostgreSQL of a run: one server, or a primary with a synchronous standby that takes over again and again."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import psycopg

from tests.faults.proxy import Proxy
from tests.standby import SETTINGS, copy_of, promote, require_standby
from usage_worker.local import EmbeddedPostgres
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

NAME = "usage"


class Database:
    """A durable server with a proxy before it; faults return what ends them."""

    name = "one PostgreSQL"

    def __init__(self, folder: Path, random: Random) -> None:
        self.folders, self.random, self._stack = [folder / "postgres"], random, ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.servers = [EmbeddedPostgres(self.folders[0], SETTINGS | {"max_connections": "100"})]
            stack.callback(self._stop)
            self.primary.start()
            Runner(self.primary.ensure_database(NAME)).up()
            self._join()
            self.proxies = [stack.enter_context(closing(Proxy(it.url(NAME)))) for it in self.servers]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def primary(self) -> EmbeddedPostgres:
        return self.servers[0]

    @property
    def url(self) -> str:
        """The URL through the proxies."""
        return self.proxies[0].url

    @property
    def direct_url(self) -> str:
        return self.primary.url(NAME)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        # A fault may hold the table, which only the caller ends.
        options = "-c lock_timeout=2s"
        with psycopg.connect(self.direct_url, autocommit=True, connect_timeout=5, options=options) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @property
    def faults(self) -> list[Callable[[Callable[[str], None]], Callable[[], object] | None]]:
        return [self.kill, self.restart]

    def kill(self, note: Callable[[str], None]) -> Callable[[], object] | None:
        if not self.primary.is_running:
            return None
        note("SIGKILL to PostgreSQL")
        self.primary.kill()
        return self.revive

    def restart(self, note: Callable[[str], None]) -> None:
        if self.primary.is_running:
            mode: Any = self.random.choice(["fast", "immediate"])
            note(f"PostgreSQL restarts, {mode}")
            self.primary.restart(mode)

    def revive(self) -> None:
        """Start what does not run."""
        for server in self.servers:
            if not server.is_running:
                server.restart()

    def _join(self) -> None:
        """Start what else there is, before the proxies."""

    def _stop(self) -> None:
        for server in self.servers:
            server.stop()


class ReplicatedDatabase(Database):
    """A primary and a synchronous standby; each failover makes a new standby of the old primary's folder."""

    name = "PostgreSQL with a synchronous standby"

    def __init__(self, folder: Path, random: Random) -> None:
        super().__init__(folder, random)
        self.folders.append(folder / "other-postgres")

    @property
    def standby(self) -> EmbeddedPostgres:
        return self.servers[1]

    @property
    def url(self) -> str:
        first, second = (it.url.rpartition("@")[2].partition("/")[0] for it in self.proxies)
        return f"postgresql://postgres@{first},{second}/{NAME}?sslmode=disable&gssencmode=disable"

    @property
    def direct_url(self) -> str:
        hosts = ",".join(quote(str(it.socket_dir), safe="") for it in self.servers)
        return f"postgresql://postgres@/{NAME}?host={hosts}&target_session_attrs=read-write"

    @property
    def faults(self) -> list[Callable[[Callable[[str], None]], Callable[[], object] | None]]:
        return [*super().faults, self.fail_over, self.kill_standby, self.fail_over]

    def fail_over(self, note: Callable[[str], None]) -> None:
        """Kill the primary, promote the standby, and make the old primary's folder a standby of the new one."""
        if not (self.primary.is_running and self.standby.is_running):
            return
        note("PostgreSQL fails over")
        old = self.primary
        old.kill()
        old.stop()
        promote(self.standby)
        self.servers.reverse()
        shutil.rmtree(old.data_dir)
        self.servers[1] = copy_of(self.primary, old.data_dir)
        self.standby.start()
        require_standby(self.primary)
        note("PostgreSQL has a standby again")

    def kill_standby(self, note: Callable[[str], None]) -> Callable[[], object] | None:
        if not self.standby.is_running:
            return None
        note("SIGKILL to the standby: commits wait")
        self.standby.kill()
        return self.revive

    def _join(self) -> None:
        self.servers.append(copy_of(self.primary, self.folders[1]))
        self.standby.start()
        require_standby(self.primary)
