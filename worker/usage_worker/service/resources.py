"""The connections of a worker process: its stream, its database, its flusher."""

from __future__ import annotations

import os
import socket
from functools import cached_property
from typing import TYPE_CHECKING, Self

from usage_worker.ingest import Flusher
from usage_worker.queue.stream import EventStream
from usage_worker.store import Store

if TYPE_CHECKING:
    from usage_worker.settings import Settings


class Resources:
    """The connections of a process, opened at first use and so never before a fork."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def stream(self) -> EventStream:
        return EventStream.of(self.settings)

    @cached_property
    def store(self) -> Store:
        return Store.of(self.settings)

    @cached_property
    def flusher(self) -> Flusher:
        return Flusher(self.stream, self.store, self.settings, f"{socket.gethostname()}-{os.getpid()}")

    def close(self) -> None:
        for name in ("stream", "store"):
            if opened := self.__dict__.pop(name, None):
                opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
