"""The senders of one process, and what makes them finish at its end.

A process ends in more than one way: an ordinary interpreter runs `atexit`; a child of `multiprocessing` runs only its
`Finalize` callbacks; a prefork child of Celery sends the signal `worker_process_shutdown`. None of them is imported
here: where it matters, it is loaded. SIGTERM may end any of them, such as a child of a pool of `multiprocessing` whose
`with` block ends: see `termination`.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from usage_worker.publisher.counted_stream import count_open_streams
from usage_worker.publisher.sender import Sender
from usage_worker.publisher.sender_lock import SenderLock
from usage_worker.publisher.termination import send_before_end

if TYPE_CHECKING:
    from usage_worker.publisher.account import Account
    from usage_worker.publisher.sender_key import SenderKey

# Seconds for all senders together, and the least for each: one that hangs must not take the others' time.
EXIT_SECONDS, LEAST_SECONDS = 5.0, 1.0


@cache
def senders() -> Senders:
    """Return the senders of this process."""
    return Senders()


class Senders:
    """One sender for each URL and its limits, so that many publishers need one thread and one buffer.

    Nothing here refers to a publisher: one that its owner forgot is collected, and its events are still sent.
    """

    def __init__(self) -> None:
        self._senders: dict[SenderKey, Sender] = {}
        # Also those whose publishers are all closed, which may still be asked in a forked child.
        self._known: WeakSet[Sender] = WeakSet()
        self._shared = SenderLock()
        self._finalizer: object = None
        self._celery = False
        atexit.register(self.finish)
        os.register_at_fork(after_in_child=self._start_over)

    def join(self, key: SenderKey, account: Account) -> Sender:
        """Return the sender of a new publisher."""
        with self._shared.lock:
            sender = self._senders.get(key) or Sender(key, self._shared, self._hook, self._remove)
            sender.join(account)
            self._senders[key] = sender  # only now: until it is used, the garbage collector may end it
            self._known.add(sender)
            send_before_end(self)
            return sender

    def busy(self) -> bool:
        """Return whether a signal has interrupted this thread while it has the lock: waiting would give it away."""
        return self._shared.is_held()

    def send_all(self, timeout: float) -> None:
        """Send what every publisher has within `timeout` seconds, and from now on each event at once."""
        deadline = time.monotonic() + timeout
        running = list(self._senders.values())
        for sender in running:
            sender.stop_lingering()
        if not self.busy():
            for sender in running:
                sender.await_buffered(deadline - time.monotonic())

    def finish(self, *_: object, **__: object) -> None:
        """Count the open streams, and send what every publisher has, for a few seconds; drop and log the rest."""
        count_open_streams()
        deadline = time.monotonic() + EXIT_SECONDS
        running = list(self._senders.values())
        for sender in running:
            sender.make_due()
        for sender in running:
            sender.finish(max(deadline - time.monotonic(), LEAST_SECONDS))

    def _remove(self, sender: Sender) -> None:
        if self._senders.get(sender.key) is sender:
            del self._senders[sender.key]

    def _start_over(self) -> None:
        """Begin in a forked child; another thread of the parent may have held the lock."""
        self._shared = SenderLock()
        self._finalizer = None
        self._senders = {sender.key: sender for sender in list(self._known) if sender.start_over(self._shared)}

    def _hook(self) -> None:
        """Arrange for `finish` with what this process has loaded, where that has not been done.

        It is repeated with the events: `multiprocessing` forgets what a child arranges before it has begun, such as
        while it imports the main module, and a module may be half loaded.
        """
        send_before_end(self)
        with suppress(AttributeError, ImportError):
            if not self._celery and (signals := sys.modules.get("celery.signals")):
                signals.worker_process_shutdown.connect(self.finish, weak=False)
                self._celery = True
            if not self._finalizer and _parent_process():
                from multiprocessing.util import Finalize  # noqa: PLC0415 - loaded already

                self._finalizer = Finalize(None, self.finish, exitpriority=0)


def _parent_process() -> object:
    """Return the process that started this one with `multiprocessing`, None where none did."""
    process: Any = sys.modules.get("multiprocessing.process")
    return process and process.parent_process()
