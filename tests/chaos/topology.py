"""The servers of a run, chosen by its seed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from tests.chaos.databases import Database, ReplicatedDatabase
from tests.chaos.replicated_streams import ClusterStreams, SentinelStreams
from tests.chaos.streams import OneRedis, OwnBroker

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from tests.chaos.streams import Streams

# In turn by the seed: five seeds that follow each other have all of them.
TOPOLOGIES: list[tuple[type[Database], type[Streams]]] = [
    (Database, OneRedis),
    (ReplicatedDatabase, OwnBroker),
    (ReplicatedDatabase, SentinelStreams),
    (ReplicatedDatabase, ClusterStreams),
    (ReplicatedDatabase, OneRedis),
]
# These are behind the proxies; the others reach the servers themselves.
FAR = ("track", "http", "serve", "worker-2")


class Topology:
    """A database and a Redis, with what a process needs to find them."""

    def __init__(self, folder: Path, seed: int, random: Random) -> None:
        database, streams = TOPOLOGIES[seed % len(TOPOLOGIES)]
        folder.mkdir()
        folder.chmod(0o755)
        self.database, self.streams = database(folder, random), streams(folder, random)
        self.name = f"{self.database.name}, {self.streams.name}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.database)
            stack.enter_context(self.streams)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settings_of(self, process: str) -> dict[str, str]:
        """Return the variables with which a process finds the servers."""
        return {"DATABASE_URL": self.database.url} | self.streams.settings(far=process.startswith(FAR))

    def revive(self) -> None:
        """Start what does not run."""
        self.database.revive()
        self.streams.revive()
