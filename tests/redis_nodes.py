"""Redis servers on ports of this machine, and Sentinels."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Any

import redis
from typing_extensions import override

from tests.helpers import free_port
from usage_worker.local import EmbeddedValkey
from usage_worker.local.account import change_owner
from usage_worker.local.binaries import Program, find_valkey
from usage_worker.local.embedded_server import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from usage_worker.local.account import Account

HOST = "127.0.0.1"


class RedisNode(EmbeddedValkey):
    """A server that listens on a port of this machine, which it keeps when it is restarted."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, settings)
        self.port = free_port()
        self._is_paused = False
        self.connection = redis.Redis(port=self.port, socket_timeout=5, decode_responses=True)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def answers(self) -> bool:
        """Whether it runs and is not paused."""
        return self.is_running and not self._is_paused

    @property
    def is_primary(self) -> bool:
        return bool(self.replication["role"] == "master")

    @property
    def replication(self) -> dict[str, Any]:
        info: dict[str, Any] = self.connection.info("replication")
        return info

    def ask(self, *command: str | int) -> Any:
        """Return the answer to a command."""
        return self.connection.execute_command(*command)  # type: ignore[no-untyped-call]

    def tcp_url(self, db: int = 0) -> str:
        return f"redis://{self.address}/{db}"

    def pause(self) -> None:
        """Stop it like a hanging machine: the kernel still takes connections and bytes for it."""
        os.kill(self.pid, signal.SIGSTOP)
        self._is_paused = True

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._is_paused = False

    @override
    def stop(self) -> None:
        if self.is_running:
            self.kill()  # also while it is paused
            self._is_paused = False
        self.connection.close()
        super().stop()

    @override
    def _find_program(self, account: Account | None, copies: Path) -> Program:
        return find_valkey(account, self.data_dir.parent / "programs")  # one copy for all servers of a test

    @override
    def _command(self) -> list[str | Path]:
        return [*super()._command(), "--port", str(self.port), "--bind", HOST, "--repl-diskless-sync-delay", "0"]


class Sentinel(RedisNode):
    """A Sentinel, which knows the others from its configuration, so that it need not find them first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.own_id = random.randbytes(20).hex()
        self.configuration: list[str] = []

    @override
    def _prepare(self, server_lock: int) -> None:
        super()._prepare(server_lock)
        file = self._file
        if file.exists():  # it has noted there what it knows
            return
        file.write_text("\n".join([f"port {self.port}", f"bind {HOST}", *self.configuration, ""]))
        if self._account:
            change_owner(file, self._account)

    @override
    def _command(self) -> list[str | Path]:
        return [self._ready_program().path, self._file, "--sentinel", "--dir", str(self._file.parent)]

    @override
    def _answer(self) -> Answer:
        try:
            self.connection.ping()
        except (redis.ConnectionError, redis.TimeoutError):
            return Answer.NOTHING
        return Answer.READY

    @property
    def _file(self) -> Path:
        return self.data_dir / "data" / "sentinel.conf"
