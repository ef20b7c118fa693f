"""Servers of PostgreSQL and Redis for the tests: embedded, started from installed programs, or given by their URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, urlsplit

from typing_extensions import override

from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
from usage_worker.local.binaries import Program, find_postgres

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from usage_worker.local.account import Account

# The data of the tests need not be durable, so commits do not wait for the disk.
FAST_POSTGRES = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_prepared_transactions": "2",
    # Enough for what one test has; whoever drops a table or a database looks at every buffer.
    "shared_buffers": "128MB",
    # Debian's PostgreSQL has it, and would compile statements that are executed once.
    "jit": "off",
}
FAST_VALKEY = {"appendonly": "no"}


class Postgres(Protocol):
    """The PostgreSQL server of the session."""

    @property
    def bin_dir(self) -> Path: ...

    def url(self, database: str = ...) -> str: ...


class Valkey(Protocol):
    """The Valkey or Redis server of the session."""

    def url(self, db: int = ...) -> str: ...


class InstalledPostgres(EmbeddedPostgres):
    """A server that the tests start from installed programs."""

    def __init__(self, programs: Path, data_dir: Path) -> None:
        super().__init__(data_dir, FAST_POSTGRES)
        self._programs = programs

    @override
    def _find_program(self, account: Account | None, copies: Path) -> Program:
        return Program(self._programs / "postgres", self._programs.parent.name)


class InstalledRedis(EmbeddedValkey):
    """A server that the tests start from an installed program."""

    def __init__(self, program: Path, data_dir: Path, settings: Mapping[str, str] = FAST_VALKEY) -> None:
        super().__init__(data_dir, settings)
        self._given_program = program

    @override
    def _find_program(self, account: Account | None, copies: Path) -> Program:
        return Program(self._given_program, self._given_program.name)


class GivenPostgres:
    """The server that DATABASE_URL names; its user must be allowed to create databases."""

    def __init__(self, url: str, programs: Path) -> None:
        self._url = urlsplit(url)
        self._programs = programs

    @property
    def bin_dir(self) -> Path:
        return find_postgres(None, self._programs).path.parent

    def url(self, database: str = "") -> str:
        return joined(self._url, f"/{database}" if database else self._url.path, self._url.query)


class GivenValkey:
    """The server that REDIS_URL names; its databases 0 and 1 belong to the tests."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    def url(self, db: int = 0) -> str:
        if self._url.scheme == "unix":
            return joined(self._url, self._url.path, f"db={db}")
        return joined(self._url, f"/{db}", self._url.query)


def joined(url: SplitResult, path: str, query: str) -> str:
    """Return a URL with another path and query."""
    # geturl() would drop the slashes before an empty host, as in URLs of sockets.
    return f"{url.scheme}://{url.netloc}{path}{'?' if query else ''}{query}"
