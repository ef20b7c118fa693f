"""A worker process without Celery, for tests that kill it often: `python -m tests.faults.flusher [POINT [SIGNAL]]`.

It calls the function of the Celery task in a loop. With a POINT it sends itself SIGNAL (default KILL) when it first
reaches that point; DECODING is reached only by entries that contain the text `deadly`. The product has no hooks for
faults, so its methods are wrapped from outside.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from usage_worker.errors import UsageError
from usage_worker.queue.stream import EventStream
from usage_worker.service.resources import Resources
from usage_worker.settings import load_settings
from usage_worker.store.batch import BatchTransaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.ingest.objects import Objects

POINTS = (
    "before the transaction",
    "inside the transaction",
    "before COMMIT",
    "after COMMIT",
    "before the acknowledgement",
)

DECODING = "while decoding"


def install_fault(point: str, inject: Callable[[], None]) -> None:
    """Wrap the method at the point so that it calls `inject`."""
    if point == "before the transaction":
        _after(EventStream, "read", inject, only_with_result=True)
    elif point == "inside the transaction":
        _after(BatchTransaction, "apply_staged", inject)
    elif point == "before COMMIT":
        _after(BatchTransaction, "add_intake", inject)
    elif point == "after COMMIT":
        done = EventStream.done

        def late(self: EventStream, shard: int, entry_ids: Sequence[str]) -> list[float]:
            inject()
            return done(self, shard, entry_ids)

        EventStream.done = late  # type: ignore[method-assign]
    elif point == "before the acknowledgement":

        def halved(self: EventStream, shard: int, entry_ids: Sequence[str]) -> list[float]:
            """Delete the entries as another program could; they stay pending."""
            with self.connection.client(self.key(shard)) as client:
                client.xdel(self.key(shard), *entry_ids)
            inject()
            return []

        EventStream.done = halved  # type: ignore[method-assign]
    elif point == DECODING:
        _before_decoding(inject)
    else:
        raise SystemExit(f"no such point: {point}")


def _before_decoding(inject: Callable[[], None]) -> None:
    functions = vars(import_module("usage_worker.ingest.decode"))
    original = functions["_read_body"]

    def wrapped(entry: DecodedEntry, number: int, body: bytes, objects: Objects) -> Any:
        if b"deadly" in body:
            inject()
        return original(entry, number, body, objects)

    functions["_read_body"] = wrapped


def _after(owner: type, name: str, inject: Callable[[], None], *, only_with_result: bool = False) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if result or not only_with_result:
            inject()
        return result

    setattr(owner, name, wrapped)


def main(point: str = "", signal_name: str = "KILL") -> None:
    # Not an Event: a handler that sets one waits for ever if it interrupts `wait` while that holds the event's lock.
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    injected = threading.Event()

    def inject() -> None:
        if not injected.is_set():
            injected.set()
            os.kill(os.getpid(), signal.Signals[f"SIG{signal_name}"])

    if point:
        install_fault(point, inject)
    settings = load_settings()
    with Resources(settings) as resources:
        while not signals:
            time.sleep(settings.flush_interval / 4)
            for shard in range(settings.stream_shards):
                try:
                    resources.flusher.flush(shard)
                except UsageError as error:
                    # The Celery task fails with this error, and the next tick tries again.
                    sys.stderr.write(f"{type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
