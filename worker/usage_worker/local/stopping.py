"""Leave a block in order on SIGINT and SIGTERM."""

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
    """SIGINT or SIGTERM arrived; a KeyboardInterrupt makes psycopg cancel the statement that it waits for."""


@dataclass
class StopFlag:
    """Whether a stop was requested; the exception alone is lost when it is raised in a finalizer."""

    is_set: bool = False


@contextlib.contextmanager
def leave_on_signal() -> Iterator[StopFlag]:
    """Leave the block on the first SIGINT or SIGTERM; ignore further ones, so that its clean-up is not interrupted.

    After either, SIGTERM stays ignored until the process ends: `timeout` sends two, and the second one would turn the
    exit code 0 of an orderly end into -15 while the interpreter exits.
    """
    flag = StopFlag()

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        if not flag.is_set:
            flag.is_set = True
            raise StopRequest

    previous = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    except StopRequest:
        log.info("stopping")
    finally:
        if flag.is_set:
            previous[signal.SIGTERM] = signal.SIG_IGN
        for number, handler in previous.items():
            signal.signal(number, handler)
