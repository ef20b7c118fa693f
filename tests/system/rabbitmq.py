"""Debian's RabbitMQ as processes of a test, with ports and a folder of its own and the pages that Flower asks."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.helpers import eventually, fetched, free_port, listens

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
PROGRAMS = Path("/usr/lib/rabbitmq/lib")
# The wrapper in /usr/sbin would run it as a user whose folder is that of the service.
SERVER = "rabbitmq_server-*/sbin/rabbitmq-server"


class RabbitMQ:
    """A server that keeps its data in a folder, with the login `guest` that it has at first."""

    def __init__(self, folder: Path) -> None:
        self.port, self.api_port = free_port(), free_port()
        self._folder, self._env = folder, _environment(folder, self)
        self._stack, self._server = ExitStack(), ExitStack()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    @property
    def api(self) -> str:
        return f"http://guest:guest@{HOST}:{self.api_port}/api/"

    def __enter__(self) -> Self:
        names = ["epmd", "-port", self._env["ERL_EPMD_PORT"]]
        self._stack.enter_context(_killed_at_the_end(names, self._env, self._folder / "epmd.log"))
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._stack:
            self.kill()

    def start(self) -> None:
        program = next(PROGRAMS.glob(SERVER), None)
        assert program, "apt-get install rabbitmq-server"
        log = self._folder / "rabbitmq.log"
        process = self._server.enter_context(_killed_at_the_end([str(program)], self._env, log))
        eventually(lambda: listens(self.port) and _is_served(self), 60)
        assert process.poll() is None

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._server.close()


def _environment(folder: Path, server: RabbitMQ) -> dict[str, str]:
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.local = {HOST}:{server.port}\n"
        f"management.tcp.ip = {HOST}\nmanagement.tcp.port = {server.api_port}\n"
    )
    (folder / "plugins").write_text("[rabbitmq_management].\n")
    return {
        **os.environ,
        "HOME": str(folder),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_NODENAME": f"usage{server.port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
    }


def _is_served(server: RabbitMQ) -> bool:
    return "RabbitMQ" in fetched(f"http://{HOST}:{server.api_port}/")


@contextmanager
def _killed_at_the_end(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
