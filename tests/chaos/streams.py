"""The Redis of a run: the server of the streams, and the one of Celery's messages, which may be the same."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import redis
from typing_extensions import override

from tests.faults.proxy import Proxy
from usage_worker.local import EmbeddedValkey
from usage_worker.queue.stream import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    Note = Callable[[str], None]
    Undo = Callable[[], object]
    Fault = Callable[[Note], Undo | None]

SHARDS = 2
# While a run goes on their number changes.
MOST_SHARDS = 4
# What Redis has answered must be on its disk, since it is killed.
DURABLE = {"appendfsync": "always"}
# What others may write under our names: these keys are aids, and replaced.
AIDS = ["usage:processes", "usage:heartbeat"]
AIDS += [f"usage:{name}:{{{shard}}}" for name in ("flush", "flushing", "deaths") for shard in range(MOST_SHARDS)]


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
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._path))
        return server


class Streams(ABC):
    """The servers of a run with the streams and with Celery's messages; faults return what ends them."""

    name: str
    may_vanish = False
    """Whether entries that nobody has been told to be sent may be lost."""
    broker: redis.Redis
    """The client of the server with Celery's messages."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.folder, self.random, self._stack = folder, random, ExitStack()

    @abstractmethod
    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def settings(self, *, far: bool = False) -> dict[str, str]:
        """Return the variables by which a process finds the servers, `far`: through proxies, if there are any."""

    @abstractmethod
    def client(self, key: str) -> redis.Redis:
        """Return the client of the server that has a key now."""

    @abstractmethod
    def revive(self) -> None:
        """Start what does not run."""

    @property
    def faults(self) -> list[Fault]:
        return [self.destroy_group, self.write_aids, self.delete_bindings]

    def destroy_group(self, note: Note) -> None:
        key = f"usage:events:{{{self.random.randrange(MOST_SHARDS)}}}"
        note(f"consumer group of {key} destroyed")
        with suppress(redis.ResponseError):
            self.client(key).xgroup_destroy(key, GROUP)

    def write_aids(self, note: Note) -> None:
        key, is_text = self.random.choice(AIDS), self.random.random() < 0.5
        note(f"something else written to {key}")
        client = self.client(key)
        client.delete(key)
        if is_text:
            client.set(key, "something else")
        else:
            client.lpush(key, "something else")

    def delete_bindings(self, note: Note) -> None:
        note("Celery's bindings deleted")
        keys: list[bytes] = list(self.broker.scan_iter("_kombu.binding.*"))
        if keys:
            self.broker.delete(*keys)


class OneRedis(Streams):
    """A durable server with a proxy before it, for the streams and for Celery."""

    name = "one Redis"

    def __init__(self, folder: Path, random: Random) -> None:
        super().__init__(folder, random)
        self.servers = [EmbeddedValkey(folder / "redis", DURABLE)]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            sockets = [it.socket_dir / it.socket_name for it in self.servers]
            self.proxies = [stack.enter_context(closing(RedisProxy(path))) for path in sockets]
            self.clients = [redis.Redis.from_url(it.url(), socket_timeout=5) for it in self.servers]
            for client in self.clients:
                stack.enter_context(closing(client))
            self.broker = self.clients[-1]
            self._stack = stack.pop_all()
        return self

    @override
    def settings(self, *, far: bool = False) -> dict[str, str]:
        names = ["REDIS_URL", "USAGE_BROKER_URL"]
        places = [proxy.url if far else server.url() for proxy, server in zip(self.proxies, self.servers, strict=True)]
        return dict(zip(names, places, strict=False))

    @override
    def client(self, key: str) -> redis.Redis:
        return self.clients[0]

    @property
    @override
    def faults(self) -> list[Fault]:
        own = [self.kill, self.restart, self.kill_clients, self.fill, self.stall, self.cut]
        return [*super().faults, *own]

    def kill(self, note: Note) -> Undo | None:
        number, server = self._some()
        if not server.is_running:
            return None
        note(f"SIGKILL to Redis {number}")
        server.kill()
        return self.revive

    def restart(self, note: Note) -> None:
        number, server = self._some()
        if server.is_running:
            note(f"Redis {number} restarts")
            server.restart()

    @override
    def revive(self) -> None:
        for server in self.servers:
            if not server.is_running:
                server.restart()

    def kill_clients(self, note: Note) -> None:
        number, _ = self._some()
        note(f"CLIENT KILL of all of Redis {number}")
        self.clients[number].client_kill_filter(skipme=True, _type="normal")

    def fill(self, note: Note) -> Undo:
        number, _ = self._some()
        client = self.clients[number]
        memory: Any = client.info("memory")
        note(f"Redis {number} is full")
        client.config_set("maxmemory", int(memory["used_memory"] * self.random.choice([0.8, 1.1])))
        return partial(self._empty, client)

    def _empty(self, client: redis.Redis) -> None:
        with suppress(redis.ConnectionError):  # a server that starts again has no limit
            client.config_set("maxmemory", 0)

    def stall(self, note: Note) -> Undo:
        number, _ = self._some()
        proxy = self.proxies[number]
        stalled = proxy.silent() if self.random.random() < 0.5 else proxy.unreachable()
        note(f"the network to Redis {number} stalls")
        stalled.__enter__()
        return partial(stalled.__exit__, None, None, None)

    def cut(self, note: Note) -> None:
        number, _ = self._some()
        note(f"connections of the proxy to Redis {number} cut")
        self.proxies[number].cut_all()

    def _some(self) -> tuple[int, EmbeddedValkey]:
        number = self.random.randrange(len(self.servers))
        return number, self.servers[number]


class OwnBroker(OneRedis):
    """One durable server for the streams, and one for Celery."""

    name = "Redis and a broker of its own"

    def __init__(self, folder: Path, random: Random) -> None:
        super().__init__(folder, random)
        self.servers.append(EmbeddedValkey(folder / "broker", DURABLE))
