"""PostgreSQL and Valkey: the given servers, or embedded ones."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
from usage_worker.local.account import temporary_folder
from usage_worker.logs import get_logger

if TYPE_CHECKING:
    from pathlib import Path

    from usage_worker.local.embedded_server import EmbeddedServer
    from usage_worker.settings import Settings

DATABASE = "usage"

log = get_logger("servers")


class Servers:
    """The servers that DATABASE_URL and REDIS_URL name; where one is not set, an embedded server.

    Embedded servers keep their data below `data_dir`, by default in a temporary folder that is removed at the end.
    `exports` are the environment variables that lead other processes to the embedded servers.
    """

    def __init__(self, settings: Settings, data_dir: Path | None = None) -> None:
        self.database_url = settings.database_url
        # The default of the setting does not mean that there is such a server.
        self.redis_url = settings.redis_url if "redis_url" in settings.model_fields_set else ""
        self.exports: dict[str, str] = {}
        self._data_dir = data_dir
        self._embedded: list[EmbeddedServer] = []
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as resources:
            self._start_missing(resources)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def pids(self) -> dict[str, int | None]:
        """Process numbers of the embedded servers, by name."""
        return {server.name: server.pid for server in self._embedded}

    def poll(self) -> None:
        """Restart an embedded server that has ended.

        Raises:
            EmbeddedServerError: it does not start.
        """
        for server in self._embedded:
            if not server.is_running:
                log.warning("an embedded server ended; restarting it", server=server.name)
                server.restart()

    def _start_missing(self, resources: contextlib.ExitStack) -> None:
        if self.database_url and self.redis_url:
            return
        folder = self._data_dir or resources.enter_context(temporary_folder())
        if not self.database_url:
            postgres = resources.enter_context(EmbeddedPostgres(folder / "postgres"))
            self._embedded.append(postgres)
            self.database_url = self.exports["DATABASE_URL"] = postgres.ensure_database(DATABASE)
        if not self.redis_url:
            valkey = resources.enter_context(EmbeddedValkey(folder / "valkey"))
            self._embedded.append(valkey)
            self.redis_url = self.exports["REDIS_URL"] = valkey.url()
