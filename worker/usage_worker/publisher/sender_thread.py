"""The thread of a sender: started where there is none, also after one has died."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.publisher.sender_lock import SenderLock


class SenderThread:
    """A thread that executes `run`; whoever calls holds the sender's lock, which `changed` belongs to.

    `running` is the thread, or None; `problem` says why none could start.
    """

    def __init__(self, run: Callable[[], None], shared: SenderLock, changed: threading.Condition) -> None:
        self._run = run
        self._shared = shared
        self._changed = changed
        self.running: threading.Thread | None = None
        # Not `is_alive`, which is wrong of a thread that gevent has patched.
        self.is_starting = False
        self.problem = ""

    def start(self) -> bool:
        """Start the thread; return False where the system allows no more, or the interpreter is shutting down."""
        thread = self.running = threading.Thread(target=self._run, name="usage-publisher", daemon=True)
        self.is_starting = True
        try:
            # Greenlets run while it starts, and a lock that is older than the patches of gevent lets all of them in.
            with self._shared.left():
                thread.start()
        except BaseException as error:
            # The events stay: the next one starts another thread, unless this one runs.
            if self.running is thread and not thread.is_alive():
                self.running = None
            self._changed.notify_all()
            if not isinstance(error, RuntimeError | MemoryError | AssertionError):
                raise  # a time limit of the application, or Ctrl-C; AssertionError is gevent's
            if self.running is thread:
                return True
            self.problem = f"no thread can start: {error}"
            return False
        finally:
            self.is_starting = False
        self.problem = ""
        return True

    def ended(self) -> None:
        """Note that the calling thread ends."""
        if self.running is threading.current_thread():
            self.running = None
