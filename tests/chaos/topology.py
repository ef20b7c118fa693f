"""The servers of a run, and what can be done to them."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import psycopg
import redis
from typing_extensions import override

from tests.faults.proxy import Proxy
from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

# What Redis has answered must be on its disk, since it is killed.
DURABLE = {"appendfsync": "always"}
SMALL = {"shared_buffers": "128MB", "max_connections": "100"}
Undo = "Callable[[], object]"


class RedisProxy(Proxy):
    """The same proxy before the Unix socket of a Redis."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(f"redis://localhost{path}")

    @property
    @override
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    @override
    def _connect(self) -> socket.socket:
        import socket  # noqa: PLC0415

        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._path))
        return server


class Plain:
    """One PostgreSQL and one Redis, each with a proxy before it; both are durable."""

    name = "plain"

    def __init__(self, folder: Path, random: Random) -> None:
        self.random, self._stack = random, ExitStack()
        self.postgres = EmbeddedPostgres(folder / "postgres", SMALL)
        self.redis_server = EmbeddedValkey(folder / "redis", DURABLE)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.postgres, self.redis_server):
                stack.enter_context(server)
            self.database_url = self.postgres.ensure_database("usage")
            Runner(self.database_url).up()
            self.database_proxy = stack.enter_context(closing(Proxy(self.database_url)))
            self.redis_proxy = stack.enter_context(
                closing(RedisProxy(self.redis_server.socket_dir / self.redis_server.socket_name))
            )
            self.redis_url = self.redis_server.url()
            self.client = stack.enter_context(closing(redis.Redis.from_url(self.redis_url, socket_timeout=5)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settings_of(self, process: str) -> dict[str, str]:
        """Return the variables with which a process finds the servers: publishers and one worker through the proxy."""
        is_far = process.startswith(("track", "http", "serve", "worker-2"))
        return {
            "DATABASE_URL": self.database_proxy.url,
            "REDIS_URL": self.redis_proxy.url if is_far else self.redis_url,
        }

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    # Faults return what ends them.

    def kill_postgres(self) -> Callable[[], object]:
        self.postgres.kill()
        return self.postgres.restart

    def crash_postgres(self) -> None:
        self.postgres.restart(self.random.choice(["fast", "immediate"]))

    def kill_redis(self) -> Callable[[], object]:
        self.redis_server.kill()
        return self.redis_server.restart

    def restart_redis(self) -> None:
        self.redis_server.restart()

    def revive(self) -> None:
        """Start what does not run."""
        for server in (self.postgres, self.redis_server):
            if not server.is_running:
                server.restart()

    def fill_redis(self) -> Callable[[], object]:
        used = int(self.client.info("memory")["used_memory"])  # type: ignore[index]
        self.client.config_set("maxmemory", int(used * self.random.choice([0.8, 1.1])))
        return partial(self.client.config_set, "maxmemory", 0)
