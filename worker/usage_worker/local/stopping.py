"""SIGINT and SIGTERM as a way out that cleans up behind itself."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usage_worker.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

log = get_logger("stopping")


class StopRequest(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived. On a KeyboardInterrupt psycopg cancels the statement that it waits for."""


@dataclass
class StopFlag:
    """Whether a stop was requested: the exception alone gets lost where it meets a finalizer."""

    is_set: bool = False


@contextlib.contextmanager
def leave_on_signal() -> Iterator[StopFlag]:
    """SIGINT and SIGTERM leave the block, from wherever it is; further ones do not disturb its clean-up."""
    flag = StopFlag()

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the form of a handler
        if not flag.is_set:
            flag.is_set = True
            raise StopRequest

    previous = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    except StopRequest:
        log.info("stopping")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
