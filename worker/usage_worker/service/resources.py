"""The connections of a worker process: its stream, its database, its flusher."""

from __future__ import annotations

import os
import socket
from functools import cached_property
from typing import TYPE_CHECKING, Self

from usage_worker.ingest import Flusher
from usage_worker.queue.stream import EventStream
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from usage_worker.settings import Settings


class Resources:
    """The connections of a process, opened at first use and so never before a fork.

    `node` is the name of the worker that the process belongs to, empty without one. `connections` is how many of
    PostgreSQL it may open: as many as there are tasks that it executes at the same time.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.node = ""
        self.connections = 1

    @cached_property
    def stream(self) -> EventStream:
        return EventStream.of(self.settings)

    @cached_property
    def store(self) -> Store:
        return Store.of(self.settings, self.connections)

    @cached_property
    def flusher(self) -> Flusher:
        consumer = f"{socket.gethostname()}-{os.getpid()}"
        return Flusher(self.stream, self.store, self.settings, consumer, self.node)

    def close(self) -> None:
        for name in ("stream", "store"):
            if opened := self.__dict__.pop(name, None):
                opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
