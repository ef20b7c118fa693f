"""Valkey as a child process."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

import redis

from usage_worker.local.account import Account, make_private_folder
from usage_worker.local.binaries import Program, find_valkey
from usage_worker.local.embedded_server import Answer, EmbeddedServer

if TYPE_CHECKING:
    from pathlib import Path

# For a queue: accepted entries survive a crash, except those of the last second, and none is evicted.
DEFAULTS = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}


class EmbeddedValkey(EmbeddedServer):
    """Valkey (or Redis) on a data folder, with a private socket only.

    `settings` are those of Valkey, such as `{"appendfsync": "always"}`.
    """

    name: ClassVar[str] = "Valkey"
    socket_name: ClassVar[str] = "valkey.sock"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def url(self, db: int = 0) -> str:
        return f"unix://{quote(str(self._socket))}?db={db}"

    def restart(self) -> None:
        self._relaunch(self.stop_signal)

    def _find_program(self, account: Account | None, copies: Path) -> Program:
        return find_valkey(account, copies)

    def _prepare(self, server_lock: int) -> None:  # noqa: ARG002 - no program runs before the server
        make_private_folder(self.data_dir / "data", self._account)

    def _command(self) -> list[str | Path]:
        settings = {
            **DEFAULTS,
            **self.settings,
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.data_dir / "data"),
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return [self._ready_program().path, *options]

    def _answer(self) -> Answer:
        with redis.Redis.from_url(self.url(), socket_timeout=2) as client:
            try:
                client.ping()
            except redis.BusyLoadingError:
                return Answer.RECOVERING
            except (redis.ConnectionError, redis.TimeoutError):  # not listening yet
                return Answer.NOTHING
        return Answer.READY

    @property
    def _socket(self) -> Path:
        return self.socket_dir / self.socket_name
