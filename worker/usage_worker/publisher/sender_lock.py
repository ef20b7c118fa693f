"""The lock of all senders of a process, and what waits until the thread that has it leaves it."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class SenderLock:
    """A lock whose holder may be interrupted half-way through a change, and what was postponed until it has left.

    A signal handler runs in the thread that it interrupts, and so does a `__del__` that the garbage collector calls.
    They may publish events; neither can wait for what they have interrupted.

    Attributes:
        lock: entered directly, since a context manager in Python takes longer, and keeps the lock if Ctrl-C ends it.
        is_held: whether this thread has the lock; asked in 30 ns. A `Condition` asks the same.
        postponed: functions, in the order in which they were postponed; they are called with the lock.
    """

    def __init__(self) -> None:
        # Of the senders, too: publishers come and go while their thread ends.
        self.lock = threading.RLock()
        self.is_held: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
        self.postponed: deque[Callable[[], object]] = deque()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Leave the lock during the block, however often this thread has entered it, as `Condition.wait` does."""
        entered = self.lock._release_save()  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            yield
        finally:
            self.lock._acquire_restore(entered)  # type: ignore[attr-defined]  # noqa: SLF001

    def run_postponed(self) -> None:
        """Call what was postponed; only where nothing is half-way through a change."""
        with self.lock:
            while self.postponed:
                self.postponed.popleft()()

    def leave(self) -> None:
        """Call what was postponed meanwhile, unless an interrupted caller has the lock still."""
        while self.postponed and not self.is_held():
            self.run_postponed()
