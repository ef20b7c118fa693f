"""Ctrl-C while packages load: they would lose a KeyboardInterrupt, or print it."""

from __future__ import annotations

import os
import signal

# As in `typing`, which takes 13 ms to load: until `Loading` Ctrl-C is Python's own.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

# As in a shell.
EXIT_INTERRUPTED = 128 + signal.SIGINT


class Loading:
    """A block that imports: there Ctrl-C ends the process at once, with `EXIT_INTERRUPTED`."""

    def __enter__(self) -> None:
        self._is_interruptible = leave_at_once()

    def __exit__(self, *_error: object) -> None:
        if self._is_interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def leave_at_once() -> bool:
    """Let Ctrl-C end the process at once from now on; return False where it is ignored, or another thread's matter."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        signal.signal(signal.SIGINT, _leave)
    except ValueError:  # not the main thread
        return False
    return True


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)
